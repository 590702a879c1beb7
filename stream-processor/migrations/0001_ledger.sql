-- The ledger: what was sold, to whom, and how far the log has been read.
--
-- Written for the path that counts, tens of thousands of reservation and unit rows a second:
--
-- * No foreign keys among reservation, unit, command and the two queues. Each would cost an index lookup
--   and a row lock per row inserted, and they guard nothing that the one writer of these tables (a batch,
--   which checks sales and reservations before it writes) and the audit (which names rows without a
--   counterpart) do not. The one rule that must hold whatever happens, a unit has one owner, is a primary key.
-- * Text is compared by bytes (collate "C"): ids have no language, and locale rules cost several times more.
-- * Every index is one that a rush fills at its right edge: uuids are version 7, units go lowest number first,
--   deadlines follow the clock.

-- A sale the processor has seen. Its row is also the lock under which return_seq grows.
create table sale (
    sale_id        text collate "C" primary key,
    concert_id     text collate "C" not null,
    title          text not null,
    artist         text not null,
    capacity       int not null check (capacity > 0),
    currency       text collate "C" not null,
    per_user_limit int not null check (per_user_limit > 0),
    settings       jsonb not null,                  -- as the administrator sent them
    epoch          bigint not null default 1,       -- of the sale's Redis state; 32 bits without a sign
    return_seq     bigint not null default 0,       -- the last number given out in unit_return
    created_at     timestamptz not null default now()
) with (fillfactor = 50);                           -- return_seq changes often: leave room to do so in place

create table reservation (
    id          uuid primary key,
    sale_id     text collate "C" not null,
    user_id     text collate "C" not null,
    state       smallint not null check (state between 0 and 4),  -- held, confirmed, cancelled, expired, rejected
    version     int not null,                       -- 1, then one more with every change
    units       int[] not null,                     -- as sold, ascending; stays when they are freed
    amount      bigint not null check (amount >= 0),
    currency    text collate "C" not null,
    held_at     timestamptz not null,               -- when Redis decided
    expires_at  timestamptz not null,
    epoch       bigint not null,                    -- of the Redis state that decided
    recorded_at timestamptz not null default now(), -- when the ledger took it
    ended_at    timestamptz,                        -- when the command that ended it was accepted
    reason      text                                -- why it was rejected
);

-- Holds whose deadline has passed. Only holds are in it, so it stays as small as the number of live ones.
create index reservation_deadline on reservation (expires_at) where state = 0;

-- Who owns each held or sold unit. The primary key is the last guard against selling a unit twice.
-- A row is deleted when its unit is freed.
create table unit (
    sale_id        text collate "C" not null,
    number         int not null check (number > 0),
    reservation_id uuid not null,
    primary key (sale_id, number)
);

-- Commands other than holds: each is taken once. (A hold's id is that of its reservation.)
create table command (
    id             uuid primary key,
    reservation_id uuid not null,
    kind           text collate "C" not null,
    occurred_at    timestamptz not null,
    result         text collate "C" not null,
    recorded_at    timestamptz not null default now()
);

-- Units on their way back into Redis, in the order in which they were freed: seq has no gaps within a sale and
-- commits in order, because it is taken from the sale's row and that row stays locked until the commit.
create table unit_return (
    sale_id        text collate "C" not null,
    seq            bigint not null,
    reservation_id uuid not null,
    user_id        text collate "C" not null,
    units          int[] not null,                  -- may be empty: the user's limit is to be given back all the same
    created_at     timestamptz not null default now(),
    applied_at     timestamptz,                     -- when Redis was known to have it
    primary key (sale_id, seq)
);

create index unit_return_pending on unit_return (sale_id, seq) where applied_at is null;

-- Reservations whose present state must still be written to where finished requests are read from.
create table outcome_queue (
    reservation_id uuid primary key,
    version        int not null,                    -- the newest version queued: a writer of an older one leaves the row
    enqueued_at    timestamptz not null default now()
);

-- How far each partition has been taken into the ledger; moves with the batch or not at all.
create table consumer_offset (
    consumer_group text collate "C" not null,
    topic          text collate "C" not null,
    partition      int not null,
    next_offset    bigint not null check (next_offset >= 0),
    primary key (consumer_group, topic, partition)
) with (fillfactor = 50);
