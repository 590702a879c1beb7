-- Where the log ended when a sale's epoch was raised last: [topic, partition, end offset] each. What a lower epoch
-- writes behind these offsets came too late.
alter table sale add column epoch_ends jsonb not null default '[]';
