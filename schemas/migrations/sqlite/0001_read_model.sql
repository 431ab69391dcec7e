-- The read model: tables derived from the log streams LOG and RECORDINGS, for queries. All of it can be dropped and is
-- then rebuilt from the log.
--
-- Tables of LOG and tables of RECORDINGS never refer to each other: the two log streams are folded independently, and
-- the rows must not depend on which of them was ahead. Hence no foreign keys between them, and none at all: the fold
-- has already refused what is impossible.
--
-- Ids are the 16 bytes of a UUID, times are microseconds since 1970 (UTC), words are those of the events.

-- How far each log stream has been folded. Written in the same transaction as the rows.
CREATE TABLE positions (
    stream   TEXT NOT NULL PRIMARY KEY,
    position INTEGER NOT NULL CHECK (position >= 0)
) STRICT, WITHOUT ROWID;

-- From LOG ----------------------------------------------------------------------------------------------------------

CREATE TABLE tenants (
    tenant_id     BLOB NOT NULL PRIMARY KEY CHECK (length(tenant_id) = 16),
    name          TEXT NOT NULL,
    created_at_us INTEGER NOT NULL,
    version       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE servers (
    server_id         BLOB NOT NULL PRIMARY KEY CHECK (length(server_id) = 16),
    name              TEXT NOT NULL,
    settings          TEXT NOT NULL CHECK (json_valid(settings)),
    has_worker        INTEGER NOT NULL CHECK (has_worker IN (0, 1)),
    -- One that was let go stays: `detached`, or `detached_seen` if its worker was seen since.
    membership        TEXT NOT NULL CHECK (membership IN ('undefined', 'adopted', 'detached', 'detached_seen')),
    lost_since_us     INTEGER,
    draining_since_us INTEGER,
    created_at_us     INTEGER NOT NULL,
    version           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE cameras (
    tenant_id       BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id       BLOB NOT NULL CHECK (length(camera_id) = 16),
    name            TEXT NOT NULL,
    -- `name` folded to lower case by the program: SQL engines disagree on how.
    name_folded     TEXT NOT NULL,
    wants_recording INTEGER NOT NULL CHECK (wants_recording IN (0, 1)),
    settings        TEXT NOT NULL CHECK (json_valid(settings)),
    created_at_us   INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, camera_id)
) STRICT, WITHOUT ROWID;

-- Who records each copy of a camera, and who is about to record it instead (its successor, in a planned move). A camera
-- has at least copy 0.
CREATE TABLE copies (
    tenant_id           BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id           BLOB NOT NULL CHECK (length(camera_id) = 16),
    copy                INTEGER NOT NULL CHECK (copy BETWEEN 0 AND 255),
    placement           TEXT NOT NULL CHECK (placement IN ('unplanned', 'assigned', 'unplaced')),
    server_id           BLOB CHECK (length(server_id) = 16),
    epoch               INTEGER,
    placed_at_us        INTEGER,
    placement_reason    TEXT,
    -- The server it was taken from, because that was lost or drained, and goes back to.
    home_server_id      BLOB CHECK (length(home_server_id) = 16),
    successor_server_id BLOB CHECK (length(successor_server_id) = 16),
    successor_epoch     INTEGER,
    successor_since_us  INTEGER,
    successor_reason    TEXT,
    PRIMARY KEY (tenant_id, camera_id, copy),
    CHECK ((placement = 'assigned') = (server_id IS NOT NULL)),
    CHECK ((placement = 'assigned') = (epoch IS NOT NULL)),
    CHECK ((placement = 'unplanned') = (placement_reason IS NULL)),
    CHECK ((placement = 'unplanned') = (placed_at_us IS NULL)),
    CHECK (successor_server_id IS NULL OR placement = 'assigned'),
    CHECK ((successor_server_id IS NULL) = (successor_epoch IS NULL)),
    CHECK ((successor_server_id IS NULL) = (successor_since_us IS NULL)),
    CHECK ((successor_server_id IS NULL) = (successor_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX copies_by_server ON copies (server_id, tenant_id, camera_id, copy) WHERE server_id IS NOT NULL;

CREATE INDEX copies_by_successor ON copies (successor_server_id) WHERE successor_server_id IS NOT NULL;

-- Every place a copy was given, so that a gap from between two servers has a cause. A successor has no place yet.
CREATE TABLE placements (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id BLOB NOT NULL CHECK (length(camera_id) = 16),
    copy      INTEGER NOT NULL,
    position  INTEGER NOT NULL,
    at_us     INTEGER NOT NULL,
    -- `unplanned`: it lost its server without a plan. That was let go, or the copy is not there any more.
    placement TEXT NOT NULL CHECK (placement IN ('unplanned', 'assigned', 'unplaced')),
    server_id BLOB CHECK (length(server_id) = 16),
    reason    TEXT,
    -- Whether the server that had it until then was lost.
    from_lost INTEGER NOT NULL CHECK (from_lost IN (0, 1)),
    PRIMARY KEY (tenant_id, camera_id, copy, position)
) STRICT, WITHOUT ROWID;

-- Every epoch that a server was given, also that of a move which was given up later: what it recorded under it is real
-- video. What a server says of an epoch that it was not given does not count. Which copy an epoch is of does not belong
-- to the key: one server holds one copy of a camera only.
CREATE TABLE epochs (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id BLOB NOT NULL CHECK (length(camera_id) = 16),
    epoch     INTEGER NOT NULL,
    server_id BLOB NOT NULL CHECK (length(server_id) = 16),
    copy      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id)
) STRICT, WITHOUT ROWID;

-- Things whose id follows from an Idempotency-Key: where the event stands that was to create them. Stays when the thing
-- goes, and is there even if it never came to be.
CREATE TABLE creations (
    thing_id BLOB NOT NULL PRIMARY KEY CHECK (length(thing_id) = 16),
    position INTEGER NOT NULL CHECK (position > 0)
) STRICT, WITHOUT ROWID;

-- From RECORDINGS ---------------------------------------------------------------------------------------------------

-- What was last heard of a camera under each of its epochs, from each server that spoke of it. Two servers can speak of
-- one epoch, and only one was given it: what each says is kept under its own name, so that neither overwrites the other,
-- and queries show what the one says that was given it. (Not told apart when it is written: whether LOG or RECORDINGS
-- was folded further must not matter.)
CREATE TABLE recording_status (
    tenant_id          BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id          BLOB NOT NULL CHECK (length(camera_id) = 16),
    epoch              INTEGER NOT NULL,
    server_id          BLOB NOT NULL CHECK (length(server_id) = 16),
    -- The run of the worker that said so: what one run was at, ends with it.
    boot_id            BLOB NOT NULL CHECK (length(boot_id) = 16),
    state              TEXT NOT NULL CHECK (state IN ('connecting', 'recording', 'offline')),
    since_us           INTEGER NOT NULL,
    -- Where in RECORDINGS that was said.
    position           INTEGER NOT NULL,
    cause              TEXT,
    detail             TEXT,
    -- Video of which is known that it is durable although its segment may not be closed: from, and up to (NULL: still
    -- growing).
    recording_since_us INTEGER,
    recording_until_us INTEGER,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id),
    CHECK ((state = 'offline') = (cause IS NOT NULL)),
    CHECK (recording_until_us IS NULL OR recording_until_us >= recording_since_us)
) STRICT, WITHOUT ROWID;

CREATE TABLE segments (
    tenant_id    BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id    BLOB NOT NULL CHECK (length(camera_id) = 16),
    epoch        INTEGER NOT NULL,
    server_id    BLOB NOT NULL CHECK (length(server_id) = 16),
    start_us     INTEGER NOT NULL,
    end_us       INTEGER NOT NULL,
    object_key   TEXT NOT NULL,
    bytes        INTEGER NOT NULL CHECK (bytes >= 0),
    sha256       BLOB NOT NULL CHECK (length(sha256) = 32),
    video_frames INTEGER NOT NULL CHECK (video_frames >= 0),
    video        TEXT NOT NULL,
    audio        TEXT,
    repaired     INTEGER NOT NULL CHECK (repaired IN (0, 1)),
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id, start_us),
    CHECK (end_us > start_us)
) STRICT, WITHOUT ROWID;

CREATE INDEX segments_by_end ON segments (tenant_id, camera_id, end_us, start_us);

CREATE TABLE gaps (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id BLOB NOT NULL CHECK (length(camera_id) = 16),
    epoch     INTEGER NOT NULL,
    server_id BLOB NOT NULL CHECK (length(server_id) = 16),
    start_us  INTEGER NOT NULL,
    end_us    INTEGER NOT NULL,
    cause     TEXT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id, start_us),
    CHECK (end_us > start_us)
) STRICT, WITHOUT ROWID;

CREATE INDEX gaps_by_end ON gaps (tenant_id, camera_id, end_us, start_us);

-- Every time a recording broke off, or failed for another cause than before.
CREATE TABLE interruptions (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id BLOB NOT NULL CHECK (length(camera_id) = 16),
    at_us     INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    server_id BLOB NOT NULL CHECK (length(server_id) = 16),
    cause     TEXT NOT NULL,
    -- Where it was reported first: a camera that fails for several causes, one after the other, names the end of its
    -- video each time.
    position  INTEGER NOT NULL,
    fact      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, at_us, epoch, server_id, cause)
) STRICT, WITHOUT ROWID;

-- Facts that contradict themselves (an end before its start). They stand in the log; here it is said that they do not
-- count, and why.
CREATE TABLE rejected_facts (
    position INTEGER NOT NULL,
    fact     INTEGER NOT NULL,
    why      TEXT NOT NULL,
    PRIMARY KEY (position, fact)
) STRICT, WITHOUT ROWID;
