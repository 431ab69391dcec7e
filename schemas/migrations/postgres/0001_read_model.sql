-- The read model: tables derived from the log streams LOG and RECORDINGS, for queries. All of it can be dropped and is
-- then rebuilt from the log.
--
-- Tables of LOG and tables of RECORDINGS never refer to each other: the two log streams are folded independently, and
-- the rows must not depend on which of them was ahead. Hence no foreign keys between them, and none at all: the fold
-- has already refused what is impossible.
--
-- Times are microseconds since 1970 (UTC), words are those of the events. Documents are kept as they were written (TEXT):
-- JSONB would write them differently and refuses what JSON allows. Words in a key are ordered by their bytes (COLLATE "C"),
-- so that every database orders rows alike.
--
-- The same tables as in ../sqlite, column by column.

-- How far each log stream has been folded. Written in the same transaction as the rows.
CREATE TABLE positions (
    stream   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL CHECK (position >= 0)
);

-- From LOG ----------------------------------------------------------------------------------------------------------

CREATE TABLE tenants (
    tenant_id     UUID NOT NULL PRIMARY KEY,
    name          TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    version       BIGINT NOT NULL
);

CREATE TABLE servers (
    server_id         UUID NOT NULL PRIMARY KEY,
    name              TEXT NOT NULL,
    settings          TEXT NOT NULL,
    has_worker        BOOLEAN NOT NULL,
    -- One that was let go stays: `detached`, or `detached_seen` if its worker was seen since.
    membership        TEXT NOT NULL CHECK (membership IN ('undefined', 'adopted', 'detached', 'detached_seen')),
    lost_since_us     BIGINT,
    draining_since_us BIGINT,
    created_at_us     BIGINT NOT NULL,
    version           BIGINT NOT NULL
);

CREATE TABLE cameras (
    tenant_id       UUID NOT NULL,
    camera_id       UUID NOT NULL,
    name            TEXT NOT NULL,
    -- `name` folded to lower case by the program: SQL engines disagree on how.
    name_folded     TEXT NOT NULL,
    wants_recording BOOLEAN NOT NULL,
    settings        TEXT NOT NULL,
    created_at_us   BIGINT NOT NULL,
    version         BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id)
);

-- Who records each copy of a camera, and who is about to record it instead (its successor, in a planned move). A camera
-- has at least copy 0.
CREATE TABLE copies (
    tenant_id           UUID NOT NULL,
    camera_id           UUID NOT NULL,
    copy                BIGINT NOT NULL CHECK (copy BETWEEN 0 AND 255),
    placement           TEXT NOT NULL CHECK (placement IN ('unplanned', 'assigned', 'unplaced')),
    server_id           UUID,
    epoch               BIGINT,
    placed_at_us        BIGINT,
    placement_reason    TEXT,
    -- The server it was taken from, because that was lost or drained, and goes back to.
    home_server_id      UUID,
    successor_server_id UUID,
    successor_epoch     BIGINT,
    successor_since_us  BIGINT,
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
);

CREATE INDEX copies_by_server ON copies (server_id, tenant_id, camera_id, copy) WHERE server_id IS NOT NULL;

CREATE INDEX copies_by_successor ON copies (successor_server_id) WHERE successor_server_id IS NOT NULL;

-- Every place a copy was given, so that a gap from between two servers has a cause. A successor has no place yet.
CREATE TABLE placements (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    copy      BIGINT NOT NULL,
    position  BIGINT NOT NULL,
    at_us     BIGINT NOT NULL,
    -- `unplanned`: it lost its server without a plan. That was let go, or the copy is not there any more.
    placement TEXT NOT NULL CHECK (placement IN ('unplanned', 'assigned', 'unplaced')),
    server_id UUID,
    reason    TEXT,
    -- Whether the server that had it until then was lost.
    from_lost BOOLEAN NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, copy, position)
);

-- Every epoch that a server was given, also that of a move which was given up later: what it recorded under it is real
-- video. What a server says of an epoch that it was not given does not count. Which copy an epoch is of does not belong
-- to the key: one server holds one copy of a camera only.
CREATE TABLE epochs (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    epoch     BIGINT NOT NULL,
    server_id UUID NOT NULL,
    copy      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id)
);

-- Things whose id follows from an Idempotency-Key: where the event stands that was to create them. Stays when the thing
-- goes, and is there even if it never came to be.
CREATE TABLE creations (
    thing_id UUID NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL CHECK (position > 0)
);

-- From RECORDINGS ---------------------------------------------------------------------------------------------------

-- What was last heard of a camera under each of its epochs, from each server that spoke of it. Two servers can speak of
-- one epoch, and only one was given it: what each says is kept under its own name, so that neither overwrites the other,
-- and queries show what the one says that was given it. (Not told apart when it is written: whether LOG or RECORDINGS
-- was folded further must not matter.)
CREATE TABLE recording_status (
    tenant_id          UUID NOT NULL,
    camera_id          UUID NOT NULL,
    epoch              BIGINT NOT NULL,
    server_id          UUID NOT NULL,
    -- The run of the worker that said so: what one run was at, ends with it.
    boot_id            UUID NOT NULL,
    state              TEXT NOT NULL CHECK (state IN ('connecting', 'recording', 'offline')),
    since_us           BIGINT NOT NULL,
    -- Where in RECORDINGS that was said.
    position           BIGINT NOT NULL,
    cause              TEXT,
    detail             TEXT,
    -- Video of which is known that it is durable although its segment may not be closed: from, and up to (NULL: still
    -- growing).
    recording_since_us BIGINT,
    recording_until_us BIGINT,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id),
    CHECK ((state = 'offline') = (cause IS NOT NULL)),
    CHECK (recording_until_us IS NULL OR recording_until_us >= recording_since_us)
);

CREATE TABLE segments (
    tenant_id    UUID NOT NULL,
    camera_id    UUID NOT NULL,
    epoch        BIGINT NOT NULL,
    server_id    UUID NOT NULL,
    start_us     BIGINT NOT NULL,
    end_us       BIGINT NOT NULL,
    object_key   TEXT NOT NULL,
    bytes        BIGINT NOT NULL CHECK (bytes >= 0),
    sha256       BYTEA NOT NULL CHECK (octet_length(sha256) = 32),
    video_frames BIGINT NOT NULL CHECK (video_frames >= 0),
    video        TEXT NOT NULL,
    audio        TEXT,
    repaired     BOOLEAN NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id, start_us),
    CHECK (end_us > start_us)
);

CREATE INDEX segments_by_end ON segments (tenant_id, camera_id, end_us, start_us);

CREATE TABLE gaps (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    epoch     BIGINT NOT NULL,
    server_id UUID NOT NULL,
    start_us  BIGINT NOT NULL,
    end_us    BIGINT NOT NULL,
    cause     TEXT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id, start_us),
    CHECK (end_us > start_us)
);

CREATE INDEX gaps_by_end ON gaps (tenant_id, camera_id, end_us, start_us);

-- Every time a recording broke off, or failed for another cause than before.
CREATE TABLE interruptions (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    at_us     BIGINT NOT NULL,
    epoch     BIGINT NOT NULL,
    server_id UUID NOT NULL,
    cause     TEXT COLLATE "C" NOT NULL,
    -- Where it was reported first: a camera that fails for several causes, one after the other, names the end of its
    -- video each time.
    position  BIGINT NOT NULL,
    fact      BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, at_us, epoch, server_id, cause)
);

-- Facts that contradict themselves (an end before its start). They stand in the log; here it is said that they do not
-- count, and why.
CREATE TABLE rejected_facts (
    position BIGINT NOT NULL,
    fact     BIGINT NOT NULL,
    why      TEXT NOT NULL,
    PRIMARY KEY (position, fact)
);
