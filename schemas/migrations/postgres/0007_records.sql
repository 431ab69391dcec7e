-- The SHA-256 of a record that was folded, and where it stands: by it a log that is another one than the rows were derived from is
-- told, also if it goes on further. NULL until the next record is folded. Beside a control of before the position moves on without it.
ALTER TABLE positions ADD COLUMN record BYTEA CHECK (length(record) = 32);
ALTER TABLE positions ADD COLUMN record_position BIGINT CHECK ((record IS NULL) = (record_position IS NULL));
