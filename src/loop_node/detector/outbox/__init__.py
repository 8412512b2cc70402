"""The outbox: keeps images for the Learning Loop on disk until it has them, whatever happens meanwhile.

On disk, below the outbox's folder::

    normal/    <id>-<bytes>.jpg          waiting; a whole item in one file that opens as a JPEG (see `item`)
    priority/  <id>-<bytes>.jpg          waiting, sent first, never dropped
    dead/      <id>-<bytes>.jpg          given up: refused again and again by the Learning Loop, or broken;
               <id>.reason.json          beside it why, and the queue it was in
    incoming/  <id>.part                 being written; of no meaning after a restart

An id is `<sequence>-<token>`: it sorts by the order in which images came, needs no clock, and is what the image is called
at the Learning Loop (`image_<id>.jpg`) however often it is sent. Anything else in these folders is left alone, but for
what older software left there (see `takeover`).

One file holds an image and its metadata because then a rename makes both visible at once, and because it costs two fsyncs
where a folder with two files costs four. The JPEG comes first so that whoever looks into the folder sees the pictures.

Invariants:

1. An image is acknowledged only when its file and the name in its folder have been fsynced; many share the folder's.
2. A name in `normal`, `priority` or `dead` stands for a whole file: it is written and fsynced in `incoming` first.
3. A request is kept as a whole or, if anything fails, not at all. (A crash may leave some of a request that was never
   acknowledged.)
4. Every image the outbox answers for is in one place: `stored == uploaded + dropped + dead + pending`, at every moment.
   The counters are the process's own; what it finds at start counts as stored.
5. An image leaves the disk only when the Learning Loop has it, when the rules below drop it, or when somebody deletes its
   file. The last is no error: it is noticed when the image is due, within a minute otherwise, and counted as `deleted`.
6. Nothing that happens to one image keeps others from being sent; no failure of the disk ends a task.

Crashes, of the process or of the power. Before the rename there is nothing but a part in `incoming`, which the next start
removes. Between rename and fsync of the folder the image may or may not be there: nobody was told that it is. After the
fsync it is there. An upload is followed by the removal and its fsync before the next request goes out, so a crash repeats
one request at most, under the same ids. Setting aside is a rename: the image is in one of both folders. All of this takes a
file system on which a rename is one step, as those with a journal have it, and one node per folder.

What is dropped. Normal images above `Limits.normal_images`: the oldest, once the new one is durable. If a new image would
bring the outbox above `Limits.total_bytes` or the disk below `Limits.free_bytes`: the oldest normal images, as many as it
takes, before the new one is written; if even all of them were not enough, none is dropped, and the new one is refused
(`StorageFull`; where nobody waits, it is dropped and counted). Images being sent at the moment go last; one that is
dropped while it is sent stays counted as dropped. Priority images are never dropped. What comes faster than it can be
written is dropped at the door where nobody waits for it. Of the dead, the oldest go above `DeadLimits`; they are counted
already.

Order. Priority images first, in the order they came; then normal ones, newest first; every fifth image of a request is the
oldest normal one, so that each one's turn comes. What an answer of the Learning Loop means is said in `delivery`.
"""

from .backlog import DropReason, Limits, Queue
from .drainer import OutboxMode, Send
from .folder import DeadLimits
from .outbox import NewImage, Outbox, OutboxStats, open_outbox
from .store import OutgoingImage

__all__ = [
    "DeadLimits",
    "DropReason",
    "Limits",
    "NewImage",
    "Outbox",
    "OutboxMode",
    "OutboxStats",
    "OutgoingImage",
    "Queue",
    "Send",
    "open_outbox",
]
