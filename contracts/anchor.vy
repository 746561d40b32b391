# pragma version 0.4.3
# pragma evm-version paris
"""
@title Where a ledger's heads are anchored
@notice Keeps, for every log, the size and the Merkle root (RFC 6962) that were anchored last. A log only grows, and only
        from exactly the head that is here: who rewrote what was anchored cannot anchor it again. A ledger that was
        restored to an earlier point goes on as another log, which says whom it follows.
        In mirror mode single events are recorded as well, counted without a gap. Hashes and references only.
"""

ENTRIES_MAX: constant(uint256) = 64

struct Head:
    size: uint64
    recorded: uint64
    root: bytes32

struct Entry:
    event_id: bytes32
    position_id: bytes32
    kind: uint8
    previous_state: uint8
    new_state: uint8
    hash: bytes32

event Began:
    log_id: indexed(bytes32)
    follows: indexed(bytes32)
    since: uint64

event Anchored:
    log_id: indexed(bytes32)
    previous_size: uint64
    size: uint64
    root: bytes32

event Recorded:
    log_id: indexed(bytes32)
    event_id: indexed(bytes32)
    position_id: indexed(bytes32)
    number: uint64
    kind: uint8
    previous_state: uint8
    new_state: uint8
    hash: bytes32

event OwnerProposed:
    proposed: indexed(address)

event OwnerChanged:
    previous: indexed(address)
    owner: indexed(address)

event SubmitterSet:
    submitter: indexed(address)
    allowed: bool

event PauserSet:
    pauser: indexed(address)
    allowed: bool

event PausedSet:
    by: indexed(address)
    paused: bool

owner: public(address)
proposed_owner: public(address)
is_submitter: public(HashMap[address, bool])
is_pauser: public(HashMap[address, bool])
paused: public(bool)
heads: HashMap[bytes32, Head]
begun: HashMap[bytes32, bool]


@deploy
def __init__(submitter: address):
    """
    @notice Whoever deploys is the owner, and may pause; `submitter` may anchor and record.
    """
    self.owner = msg.sender
    log OwnerChanged(previous=empty(address), owner=msg.sender)
    self.is_pauser[msg.sender] = True
    log PauserSet(pauser=msg.sender, allowed=True)
    self.is_submitter[submitter] = True
    log SubmitterSet(submitter=submitter, allowed=True)


@view
@external
def head(log_id: bytes32) -> (uint64, bytes32, uint64, bool):
    """
    @notice The size and root that were anchored last, how many events were recorded, whether it began after another.
    """
    found: Head = self.heads[log_id]
    return found.size, found.root, found.recorded, self.begun[log_id]


@external
def begin(log_id: bytes32, follows: bytes32, since: uint64):
    """
    @notice Say that the new log `log_id` goes on where `follows` had `since` leaves: the ledger was restored to there.
    """
    self._may_submit()
    assert self.heads[log_id].size == 0 and not self.begun[log_id], "not a new log"
    assert since < self.heads[follows].size, "nothing was lost"
    self.begun[log_id] = True
    log Began(log_id=log_id, follows=follows, since=since)


@external
def anchor(log_id: bytes32, previous_size: uint64, previous_root: bytes32, size: uint64, root: bytes32):
    """
    @notice Anchor the head of a log, on top of exactly the head that is here.
    """
    self._may_submit()
    found: Head = self.heads[log_id]
    assert found.size == previous_size and found.root == previous_root, "fork"
    assert size > previous_size, "not grown"
    assert root != empty(bytes32), "no root"
    self.heads[log_id] = Head(size=size, recorded=found.recorded, root=root)
    log Anchored(log_id=log_id, previous_size=previous_size, size=size, root=root)


@external
def record(log_id: bytes32, first: uint64, entries: DynArray[Entry, ENTRIES_MAX]):
    """
    @notice Record events of a log, the first of which is its `first` recorded one: each once, none left out.
    """
    self._may_submit()
    assert len(entries) != 0, "no entries"
    recorded: uint64 = self.heads[log_id].recorded
    assert first == recorded + 1, "not the next"
    for entry: Entry in entries:
        recorded += 1
        log Recorded(
            log_id=log_id,
            event_id=entry.event_id,
            position_id=entry.position_id,
            number=recorded,
            kind=entry.kind,
            previous_state=entry.previous_state,
            new_state=entry.new_state,
            hash=entry.hash,
        )
    self.heads[log_id].recorded = recorded


@external
def propose_owner(proposed: address):
    """
    @notice Offer ownership; it changes hands when the other accepts.
    """
    self._must_own()
    self.proposed_owner = proposed
    log OwnerProposed(proposed=proposed)


@external
def accept_ownership():
    """
    @notice Become the owner, as was offered.
    """
    assert msg.sender == self.proposed_owner, "not proposed"
    log OwnerChanged(previous=self.owner, owner=msg.sender)
    self.owner = msg.sender
    self.proposed_owner = empty(address)


@external
def set_submitter(submitter: address, allowed: bool):
    """
    @notice Who may anchor and record.
    """
    self._must_own()
    self.is_submitter[submitter] = allowed
    log SubmitterSet(submitter=submitter, allowed=allowed)


@external
def set_pauser(pauser: address, allowed: bool):
    """
    @notice Who may pause.
    """
    self._must_own()
    self.is_pauser[pauser] = allowed
    log PauserSet(pauser=pauser, allowed=allowed)


@external
def pause():
    """
    @notice Take nothing more, until the owner says otherwise.
    """
    assert self.is_pauser[msg.sender], "not a pauser"
    self.paused = True
    log PausedSet(by=msg.sender, paused=True)


@external
def unpause():
    """
    @notice Take submissions again.
    """
    self._must_own()
    self.paused = False
    log PausedSet(by=msg.sender, paused=False)


@view
@internal
def _may_submit():
    assert not self.paused, "paused"
    assert self.is_submitter[msg.sender], "not a submitter"


@view
@internal
def _must_own():
    assert msg.sender == self.owner, "not the owner"
