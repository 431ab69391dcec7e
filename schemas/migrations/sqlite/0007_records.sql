-- The SHA-256 of the record that stands at the position, by which a log that is another one than the rows were derived from is
-- told, also if it goes on further. NULL until the next record is folded.
ALTER TABLE positions ADD COLUMN record BLOB CHECK (length(record) = 32);
