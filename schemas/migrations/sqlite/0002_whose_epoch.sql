-- Two servers can speak of one epoch, and only one of them was given it: what each says is kept under its own name, so
-- that neither overwrites the other, and queries show what the one says that was given it. (Not told apart when it is
-- written: whether LOG or RECORDINGS was folded further must not matter.)
--
-- And it is remembered where the creation of a thing stands in the log if a request could be sent again to create it.
--
-- All rows go; the fold writes them anew.

DELETE FROM positions;
DELETE FROM tenants;
DELETE FROM servers;
DELETE FROM cameras;
DELETE FROM placements;
DELETE FROM segments;
DELETE FROM rejected_facts;
DROP TABLE recording_status;
DROP TABLE gaps;
DROP TABLE interruptions;

-- From LOG ----------------------------------------------------------------------------------------------------------

-- Things whose id follows from an Idempotency-Key: where the event stands that was to create them. Stays when the thing
-- goes, and is there even if it never came to be.
CREATE TABLE creations (
    thing_id BLOB NOT NULL PRIMARY KEY CHECK (length(thing_id) = 16),
    position INTEGER NOT NULL CHECK (position > 0)
) STRICT, WITHOUT ROWID;

-- From RECORDINGS ---------------------------------------------------------------------------------------------------

-- What was last heard of a camera under each of its epochs, from each server that spoke of it.
CREATE TABLE recording_status (
    tenant_id          BLOB NOT NULL CHECK (length(tenant_id) = 16),
    camera_id          BLOB NOT NULL CHECK (length(camera_id) = 16),
    epoch              INTEGER NOT NULL,
    server_id          BLOB NOT NULL CHECK (length(server_id) = 16),
    -- The run of the worker that said so: what one run was at, ends with it.
    boot_id            BLOB NOT NULL CHECK (length(boot_id) = 16),
    state              TEXT NOT NULL CHECK (state IN ('connecting', 'recording', 'offline')),
    since_us           INTEGER NOT NULL,
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
