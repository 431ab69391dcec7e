-- Video that was there and was deleted, from RECORDINGS: the rows of its segments are gone, and what is left of them is
-- when it was and why it went. Stretches of one recording that touch are one row, for segments go oldest first and a
-- camera that is kept for a month loses as many as it gains.
CREATE TABLE deletions (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    epoch     BIGINT NOT NULL,
    server_id UUID NOT NULL,
    start_us  BIGINT NOT NULL,
    end_us    BIGINT NOT NULL,
    reason    TEXT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id, epoch, server_id, start_us),
    CHECK (end_us > start_us)
);

CREATE INDEX deletions_by_end ON deletions (tenant_id, camera_id, end_us, start_us);
