-- What is wrong with stored segments, from RECORDINGS: their servers look after them, and say so when a file is missing, does
-- not hold what was stored, or cannot be read; and when it is right again.
ALTER TABLE segments ADD COLUMN damage TEXT CHECK (damage IN ('missing', 'corrupt', 'unreadable'));
ALTER TABLE segments ADD COLUMN damage_found_us INTEGER CHECK ((damage IS NULL) = (damage_found_us IS NULL));

-- A server asks for what it is known to have, part by part, in this order.
CREATE INDEX segments_by_server ON segments (server_id, tenant_id, camera_id, start_us, epoch);
