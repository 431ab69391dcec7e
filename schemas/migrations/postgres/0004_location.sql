-- Where a segment lies: on the server that recorded it, or in the object store it was uploaded to. What was stored before
-- this column was there lies on its server.
ALTER TABLE segments ADD COLUMN location TEXT NOT NULL DEFAULT 'server' CHECK (location IN ('server', 'object_store'));
