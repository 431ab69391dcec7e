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
    server_id     BLOB NOT NULL PRIMARY KEY CHECK (length(server_id) = 16),
    name          TEXT NOT NULL,
    settings      TEXT NOT NULL CHECK (json_valid(settings)),
    has_worker    INTEGER NOT NULL CHECK (has_worker IN (0, 1)),
    adopted       INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    lost_since_us INTEGER,
    created_at_us INTEGER NOT NULL,
    version       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE cameras (
    tenant_id        BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id        BLOB NOT NULL CHECK (length(camera_id) = 16),
    name             TEXT NOT NULL,
    -- `name` folded to lower case by the program: SQL engines disagree on how.
    name_folded      TEXT NOT NULL,
    wants_recording  INTEGER NOT NULL CHECK (wants_recording IN (0, 1)),
    settings         TEXT NOT NULL CHECK (json_valid(settings)),
    created_at_us    INTEGER NOT NULL,
    version          INTEGER NOT NULL,
    placement        TEXT NOT NULL CHECK (placement IN ('unplanned', 'assigned', 'unplaced')),
    server_id        BLOB CHECK (length(server_id) = 16),
    epoch            INTEGER,
    placed_at_us     INTEGER,
    placement_reason TEXT,
    PRIMARY KEY (tenant_id, camera_id),
    CHECK ((placement = 'assigned') = (server_id IS NOT NULL AND epoch IS NOT NULL)),
    CHECK ((placement = 'unplanned') = (placement_reason IS NULL)),
    CHECK ((placement = 'unplanned') = (placed_at_us IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX cameras_by_server ON cameras (server_id, tenant_id, camera_id) WHERE server_id IS NOT NULL;

-- Every place a camera was given, so that a gap from between two servers has a cause.
CREATE TABLE placements (
    tenant_id BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id BLOB NOT NULL CHECK (length(camera_id) = 16),
    position  INTEGER NOT NULL,
    at_us     INTEGER NOT NULL,
    placement TEXT NOT NULL CHECK (placement IN ('unplanned', 'assigned', 'unplaced')),
    server_id BLOB CHECK (length(server_id) = 16),
    reason    TEXT,
    PRIMARY KEY (tenant_id, camera_id, position)
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
