-- In which object store a segment lies, by the id that stands in the store; unknown of what was uploaded before stores had
-- ids. What its object holds stands here only if it is not what was stored.
ALTER TABLE segments ADD COLUMN store_id UUID;
ALTER TABLE segments ADD COLUMN object_bytes BIGINT CHECK (object_bytes >= 0);
ALTER TABLE segments ADD COLUMN object_sha256 BYTEA CHECK (octet_length(object_sha256) = 32);

-- Whoever looks after an object store asks for what it should hold, camera by camera, oldest first, and for the sum.
CREATE INDEX segments_by_store ON segments (store_id, tenant_id, camera_id, start_us, bytes, damage)
    WHERE store_id IS NOT NULL;
CREATE INDEX segments_of_unknown_stores ON segments (server_id, tenant_id, camera_id, start_us)
    WHERE location = 'object_store' AND store_id IS NULL;

-- How long video of cameras that are deleted is to be kept, as they were last told, from LOG. A camera that was deleted before
-- this table was there is not in it, unless the read model is built anew.
CREATE TABLE former_cameras (
    tenant_id UUID NOT NULL,
    camera_id UUID NOT NULL,
    retention TEXT NOT NULL,
    PRIMARY KEY (tenant_id, camera_id)
);
