#!lua name=onsale_@HASH@
--[[
The stock of a sale, decided in one call.

A Redis Functions library (Redis 7.0 or later, Valkey). `@HASH@` is a hash of this very text: another
text is another library with other function names, and never replaces this one under a running sale.

KEYS of a sale, all in the slot of {saleId}. Every function takes the ones it names, in its order.
  sale      hash    epoch      number of this state; sells only while `blessed` holds the same (the fence)
                    version    number of the settings copied here; only a higher one replaces them
                    capacity, limit, hold (ms), opens, closes (ms, 0: never), paused, room, seated (0|1)
                    currency, tiers (packed: u32 last unit number, u64 price; ascending)
                    free       units not taken
                    low        no unit below this zero-based bit is free
                    rseq       last unit return applied
  units     string  bitmap, bit n-1 set: unit n is taken; always ceil(capacity / 8) bytes long
  holds     hash    reservation id (16 bytes) -> record (see `pack_hold`)
  users     hash    user -> packed (16 bytes id, u16 quantity) of every reservation that counts to the limit
  pending   zset    command -> time accepted (ms): accepted, not yet known to be in the ledger
                    'H' id16 for a hold, 'C' command16 id16 for a cancel
  admitted  zset    user -> admitted until (ms); read where `room` is 1
  idem0..2  hash    digest of (user, operation, key) -> packed answer; one a day, by day number modulo 3,
                    gone at the end of the following day: an answer is kept 24 to 48 hours

Every function first passes the fence, checks everything, and only then writes: Redis does not roll back.
Time is Redis' own (TIME), one clock for every caller. Integers in packed strings are big-endian.

COST of reserve: O(log pending) plus one BITPOS and SETBIT a unit; 8 to 12 Redis calls for one unit.
MEMORY of a hold of one unit with a user id of 36 characters, idempotency record included: 557 bytes while pending,
422 once cleared (Redis 7.0.15, `cargo run -p onsale-inventory --example memory_per_hold 20000`).
]]

-- sale key -> epoch. Filled by `bless` (and `create`) alone. It lives in the interpreter: a restart, a
-- restored snapshot, a fresh or promoted replica start without it, so they cannot sell.
local blessed = {}

local DAY = 86400000

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function int(n)
  return string.format('%.0f', n)
end

-- nil where the sale may be touched, else the refusal. `epoch` is the sale's field as read.
local function fence(sale, epoch)
  if epoch and blessed[sale] == epoch then return nil end
  if epoch or blessed[sale] then return { 'fenced' } end
  return { 'absent' }
end

-- A hold: u8 state, u8 flags (1: a cancel was accepted), u32 epoch, u32 ledger version, u64 held at,
-- u64 expires at, u64 amount, u16 number of units, u32 each, 16 bytes cancel command (if flag 1), user.
local HOLD = '>BBI4I4I8I8I8I2'
local HOLD_LEN = 36

local function pack_hold(h)
  return struct.pack(HOLD, h.state, h.cancel ~= '' and 1 or 0, h.epoch, h.version, h.held, h.expires, h.amount,
    #h.units / 4) .. h.units .. h.cancel .. h.user
end

local function unpack_hold(text)
  local h, flags, n = {}, 0, 0
  h.state, flags, h.epoch, h.version, h.held, h.expires, h.amount, n = struct.unpack(HOLD, text)
  local at = HOLD_LEN + 4 * n
  h.units = string.sub(text, HOLD_LEN + 1, at)
  h.cancel = flags == 1 and string.sub(text, at + 1, at + 16) or ''
  h.user = string.sub(text, at + #h.cancel + 1)
  return h
end

local function numbers(packed)
  local list = {}
  for at = 1, #packed, 4 do list[#list + 1] = struct.unpack('>I4', packed, at) end
  return list
end

-- What the units cost. `list` ascends, and so do the tiers: one walk over both.
local function price(tiers, list)
  local sum, at = 0, 1
  local last, amount = struct.unpack('>I4I8', tiers, at)
  for _, number in ipairs(list) do
    while number > last do
      at = at + 12
      last, amount = struct.unpack('>I4I8', tiers, at)
    end
    sum = sum + amount
  end
  return sum
end

-- The user's entry without reservation `id`; the entry itself is deleted once empty.
local function release_user(users, user, id)
  local entry = redis.call('HGET', users, user)
  if not entry then return end
  for at = 1, #entry, 18 do
    if string.sub(entry, at, at + 15) == id then
      entry = string.sub(entry, 1, at - 1) .. string.sub(entry, at + 18)
      break
    end
  end
  if entry == '' then redis.call('HDEL', users, user) else redis.call('HSET', users, user, entry) end
end

-- ARGV from `i`: version, limit, hold, opens, closes, paused, room, seated, currency, tiers.
local function settings(args, i)
  return 'version', args[i], 'limit', args[i + 1], 'hold', args[i + 2], 'opens', args[i + 3], 'closes', args[i + 4],
    'paused', args[i + 5], 'room', args[i + 6], 'seated', args[i + 7], 'currency', args[i + 8], 'tiers', args[i + 9]
end

-- create: the stock of a new sale, at epoch 1 and blessed in the same call. Only for whom the catalog says
-- that the sale is new: on a Redis that lost a sale this would sell it again.
-- A caller that was frozen on its way comes too late: by then the processor has laid the sale.
-- KEYS sale units   ARGV not after (ms), capacity, settings (10)   -> created | exists | late
local function create(keys, args)
  local sale, units = keys[1], keys[2]
  if blessed[sale] or redis.call('EXISTS', sale) == 1 then return { 'exists' } end
  if now_ms() > tonumber(args[1]) then return { 'late' } end
  local capacity = tonumber(args[2])
  redis.call('DEL', units)
  redis.call('SETRANGE', units, math.ceil(capacity / 8) - 1, '\0')
  redis.call('HSET', sale, 'epoch', '1', 'capacity', int(capacity), 'free', int(capacity), 'low', '0', 'rseq', '0',
    settings(args, 3))
  blessed[sale] = '1'
  return { 'created' }
end

-- configure: newer settings of a sale that is there. Its stock is not touched.
-- KEYS sale   ARGV settings (10)   -> configured | older | fenced | absent
local function configure(keys, args)
  local sale = keys[1]
  local s = redis.call('HMGET', sale, 'epoch', 'version')
  local refusal = fence(sale, s[1])
  if refusal then return refusal end
  if tonumber(args[1]) <= tonumber(s[2]) then return { 'older' } end
  redis.call('HSET', sale, settings(args, 1))
  return { 'configured' }
end

-- reserve: take units, or say why not.
-- KEYS sale units holds users pending admitted idem0 idem1 idem2
-- ARGV id16, user, digest16 of (user, operation, key), fingerprint8 of the request, quantity (0: named units), packed units
-- -> accepted, epoch, held, expires, amount, currency, packed units
--  | replay, in the ledger (1) or not known to be (0), epoch and held (0 where in the ledger), expires, amount, currency,
--    packed units, id16
--  | key-reused | not-open, opens | closed | paused | not-admitted | limit, limit, packed user entry
--  | sold-out, free | seat-taken, packed units | no-such-unit | seated | drift | fenced | absent
local function reserve(keys, args)
  local sale, units, holds, users, pending, admitted = unpack(keys, 1, 6)
  local id, user, digest, fingerprint = args[1], args[2], args[3], args[4]
  local s = redis.call('HMGET', sale, 'epoch', 'opens', 'closes', 'paused', 'room', 'limit', 'hold', 'tiers', 'free',
    'low', 'seated', 'currency', 'capacity')
  local refusal = fence(sale, s[1])
  if refusal then return refusal end
  local now = now_ms()

  local day = math.floor(now / DAY)
  local today = keys[7 + day % 3]
  local answer = redis.call('HGET', today, digest) or redis.call('HGET', keys[7 + (day - 1) % 3], digest)
  if answer then
    if string.sub(answer, 1, 8) ~= fingerprint then return { 'key-reused' } end
    local held_id = string.sub(answer, 9, 24)
    local expires, amount = struct.unpack('>I8I8', answer, 25)
    local taken = string.sub(answer, 41)
    if not redis.call('ZSCORE', pending, 'H' .. held_id) then
      return { 'replay', 1, 0, 0, expires, amount, s[12], taken, held_id }
    end
    local h = unpack_hold(redis.call('HGET', holds, held_id))
    return { 'replay', 0, h.epoch, h.held, expires, amount, s[12], taken, held_id }
  end

  if now < tonumber(s[2]) then return { 'not-open', tonumber(s[2]) } end
  local closes = tonumber(s[3])
  if closes > 0 and now >= closes then return { 'closed' } end
  if s[4] == '1' then return { 'paused' } end

  if s[5] == '1' then
    local till = redis.call('ZSCORE', admitted, user)
    if not till or tonumber(till) <= now then return { 'not-admitted' } end
  end

  local quantity = tonumber(args[5])
  local wanted = args[6]
  local named = quantity == 0
  if named then quantity = #wanted / 4 elseif s[11] == '1' then return { 'seated' } end

  local limit = tonumber(s[6])
  local entry = redis.call('HGET', users, user) or ''
  local count = quantity
  for at = 17, #entry, 18 do count = count + struct.unpack('>I2', entry, at) end
  if count > limit then return { 'limit', limit, entry } end

  local free, low, capacity = tonumber(s[9]), tonumber(s[10]), tonumber(s[13])
  local list
  if named then
    list = numbers(wanted)
    local taken = {}
    for _, number in ipairs(list) do
      if number < 1 or number > capacity then return { 'no-such-unit' } end
      if redis.call('GETBIT', units, number - 1) == 1 then taken[#taken + 1] = struct.pack('>I4', number) end
    end
    if free == 0 then return { 'sold-out', 0 } end
    if #taken > 0 then return { 'seat-taken', table.concat(taken) } end
    if quantity > free then return { 'drift' } end
  else
    if quantity > free then return { 'sold-out', free } end
    list = {}
    local packed = {}
    local bit = low - 1
    for i = 1, quantity do
      bit = redis.call('BITPOS', units, 0, bit + 1, -1, 'BIT')
      if bit < 0 or bit >= capacity then return { 'drift' } end
      list[i] = bit + 1
      packed[i] = struct.pack('>I4', bit + 1)
    end
    wanted = table.concat(packed)
    low = bit + 1
  end
  local amount = price(s[8], list)
  local epoch = tonumber(s[1])
  local expires = now + tonumber(s[7])

  for _, number in ipairs(list) do redis.call('SETBIT', units, number - 1, 1) end
  redis.call('HSET', sale, 'free', int(free - quantity), 'low', int(low))
  redis.call('HSET', holds, id, pack_hold({ state = 0, epoch = epoch, version = 0, held = now, expires = expires,
    amount = amount, units = wanted, cancel = '', user = user }))
  redis.call('HSET', users, user, entry .. id .. struct.pack('>I2', quantity))
  redis.call('ZADD', pending, int(now), 'H' .. id)
  redis.call('HSET', today, digest, fingerprint .. id .. struct.pack('>I8I8', expires, amount) .. wanted)
  if redis.call('HLEN', today) == 1 then redis.call('PEXPIREAT', today, int((day + 2) * DAY)) end
  return { 'accepted', epoch, now, expires, amount, s[12], wanted }
end

-- cancel: the owner gives a reservation up. The units stay taken until the ledger has freed them.
-- KEYS sale holds pending   ARGV id16, user, command16
-- -> accepted, in the log (1) or not known to be (0), hold in the log (1|0), epoch, accepted at, currency, record
--  | ended, record | unknown | fenced | absent
local function cancel(keys, args)
  local sale, holds, pending = keys[1], keys[2], keys[3]
  local id = args[1]
  local s = redis.call('HMGET', sale, 'epoch', 'currency')
  local refusal = fence(sale, s[1])
  if refusal then return refusal end
  local record = redis.call('HGET', holds, id)
  if not record then return { 'unknown' } end
  local h = unpack_hold(record)
  if h.user ~= args[2] then return { 'unknown' } end
  if h.state > 1 then return { 'ended', record } end
  local hold_known = redis.call('ZSCORE', pending, 'H' .. id) and 0 or 1
  local epoch = tonumber(s[1])
  if h.cancel ~= '' then
    local at = redis.call('ZSCORE', pending, 'C' .. h.cancel .. id)
    if not at then return { 'accepted', 1, hold_known, epoch, h.held, s[2], record } end
    return { 'accepted', 0, hold_known, epoch, tonumber(at), s[2], record }
  end
  local now = now_ms()
  h.cancel = args[3]
  record = pack_hold(h)
  redis.call('HSET', holds, id, record)
  redis.call('ZADD', pending, int(now), 'C' .. h.cancel .. id)
  return { 'accepted', 0, hold_known, epoch, now, s[2], record }
end

-- hold: one reservation as Redis has it.
-- KEYS sale holds pending   ARGV id16
-- -> found, in the ledger (1) or not known to be (0), currency, record | unknown | fenced | absent
local function hold(keys, args)
  local s = redis.call('HMGET', keys[1], 'epoch', 'currency')
  local refusal = fence(keys[1], s[1])
  if refusal then return refusal end
  local record = redis.call('HGET', keys[2], args[1])
  if not record then return { 'unknown' } end
  return { 'found', redis.call('ZSCORE', keys[3], 'H' .. args[1]) and 0 or 1, s[2], record }
end

-- stock: what is left of a sale, and its window.
-- KEYS sale   -> stock, now, capacity, free, opens, closes, paused | fenced | absent
local function stock(keys)
  local s = redis.call('HMGET', keys[1], 'epoch', 'capacity', 'free', 'opens', 'closes', 'paused')
  local refusal = fence(keys[1], s[1])
  if refusal then return refusal end
  return { 'stock', now_ms(), tonumber(s[2]), tonumber(s[3]), tonumber(s[4]), tonumber(s[5]), tonumber(s[6]) }
end

-- seats: which units are taken.
-- KEYS sale units   -> seats, free, bitmap | fenced | absent
local function seats(keys)
  local s = redis.call('HMGET', keys[1], 'epoch', 'free')
  local refusal = fence(keys[1], s[1])
  if refusal then return refusal end
  return { 'seats', tonumber(s[2]), redis.call('GET', keys[2]) }
end

-- clear: these commands are in the ledger and changed nothing that Redis does not know.
-- KEYS sale pending   ARGV command...   -> cleared, how many were pending | fenced | absent
local function clear(keys, args)
  local refusal = fence(keys[1], redis.call('HGET', keys[1], 'epoch'))
  if refusal then return refusal end
  local n = 0
  -- Lua hands over 7,999 values at most at once.
  for from = 1, #args, 1000 do
    n = n + redis.call('ZREM', keys[2], unpack(args, from, math.min(from + 999, #args)))
  end
  return { 'cleared', n }
end

-- settle: these commands are in the ledger, and this is where their reservations stand there.
-- KEYS sale holds pending   ARGV (command, id16, state, version)...   -> settled, how many records changed | fenced | absent
local function settle(keys, args)
  local refusal = fence(keys[1], redis.call('HGET', keys[1], 'epoch'))
  if refusal then return refusal end
  local n = 0
  for i = 1, #args, 4 do
    local record = redis.call('HGET', keys[2], args[i + 1])
    local version = tonumber(args[i + 3])
    if record then
      local h = unpack_hold(record)
      if version > h.version then
        h.state, h.version = tonumber(args[i + 2]), version
        redis.call('HSET', keys[2], args[i + 1], pack_hold(h))
        n = n + 1
      end
    end
    redis.call('ZREM', keys[3], args[i])
  end
  return { 'settled', n }
end

-- give_back: applies unit returns in the order of their journal, each once.
-- KEYS sale units users   ARGV (seq, id16, user, packed units)...
-- -> returned, last seq applied, units freed, units that were free already | gap, last seq applied | fenced | absent
local function give_back(keys, args)
  local sale, units, users = keys[1], keys[2], keys[3]
  local s = redis.call('HMGET', sale, 'epoch', 'free', 'low', 'rseq')
  local refusal = fence(sale, s[1])
  if refusal then return refusal end
  local free, low, last = tonumber(s[2]), tonumber(s[3]), tonumber(s[4])
  local due = last
  for i = 1, #args, 4 do
    local seq = tonumber(args[i])
    if seq > due then
      if seq ~= due + 1 then return { 'gap', last } end
      due = seq
    end
  end
  local freed, odd = 0, 0
  for i = 1, #args, 4 do
    local seq = tonumber(args[i])
    if seq > last then
      for _, number in ipairs(numbers(args[i + 3])) do
        if redis.call('SETBIT', units, number - 1, 0) == 1 then
          freed = freed + 1
          low = math.min(low, number - 1)
        else
          odd = odd + 1
        end
      end
      release_user(users, args[i + 2], args[i + 1])
      last = seq
    end
  end
  redis.call('HSET', sale, 'free', int(free + freed), 'low', int(low), 'rseq', int(last))
  return { 'returned', last, freed, odd }
end

-- forget: these reservations have ended and whoever asks finds their outcome elsewhere.
-- KEYS sale holds   ARGV id16...   -> forgotten, how many | fenced | absent
local function forget(keys, args)
  local refusal = fence(keys[1], redis.call('HGET', keys[1], 'epoch'))
  if refusal then return refusal end
  local n = 0
  for from = 1, #args, 1000 do
    n = n + redis.call('HDEL', keys[2], unpack(args, from, math.min(from + 999, #args)))
  end
  return { 'forgotten', n }
end

-- bury: these commands are dead letters. They stay pending, and their units taken, but nobody writes them again:
-- their time is set to infinity.
-- KEYS sale pending   ARGV command...   -> buried, how many were pending | fenced | absent
local function bury(keys, args)
  local refusal = fence(keys[1], redis.call('HGET', keys[1], 'epoch'))
  if refusal then return refusal end
  local n = 0
  for _, command in ipairs(args) do
    if redis.call('ZSCORE', keys[2], command) then
      redis.call('ZADD', keys[2], '+inf', command)
      n = n + 1
    end
  end
  return { 'buried', n }
end

-- overdue: commands pending since `before` or longer, oldest first, with the records they are about.
-- KEYS sale holds pending   ARGV before (ms), how many at most
-- -> overdue, epoch, currency, (command, accepted at, record or '')... | fenced | absent
local function overdue(keys, args)
  local s = redis.call('HMGET', keys[1], 'epoch', 'currency')
  local refusal = fence(keys[1], s[1])
  if refusal then return refusal end
  local reply = { 'overdue', tonumber(s[1]), s[2] }
  local found = redis.call('ZRANGEBYSCORE', keys[3], '-inf', args[1], 'WITHSCORES', 'LIMIT', 0, args[2])
  for i = 1, #found, 2 do
    reply[#reply + 1] = found[i]
    reply[#reply + 1] = tonumber(found[i + 1])
    reply[#reply + 1] = redis.call('HGET', keys[2], string.sub(found[i], -16)) or ''
  end
  return reply
end

-- inspect: the whole stock at one moment, for the audit and the comparison before a blessing. Not fenced: it
-- says whether the sale is.
-- KEYS sale units holds users pending
-- -> inspected, now, epoch, blessed (1|0), version, capacity, free, rseq, bitmap, taken bits, users, pending, of these
--    buried, oldest not buried (ms, 0: none), packed (id16, u16 units, u32 each) of the holds among them | absent
local function inspect(keys)
  local sale = keys[1]
  local s = redis.call('HMGET', sale, 'epoch', 'version', 'capacity', 'free', 'rseq')
  if not s[1] then return { 'absent' } end
  local oldest = redis.call('ZRANGEBYSCORE', keys[5], '-inf', '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local waiting = {}
  for _, command in ipairs(redis.call('ZRANGE', keys[5], 0, -1)) do
    if string.sub(command, 1, 1) == 'H' then
      local id = string.sub(command, 2)
      local record = redis.call('HGET', keys[3], id)
      if record then
        local h = unpack_hold(record)
        waiting[#waiting + 1] = id .. struct.pack('>I2', #h.units / 4) .. h.units
      end
    end
  end
  return { 'inspected', now_ms(), tonumber(s[1]), blessed[sale] == s[1] and 1 or 0, tonumber(s[2]), tonumber(s[3]),
    tonumber(s[4]), tonumber(s[5]), redis.call('GET', keys[2]) or '', redis.call('BITCOUNT', keys[2]),
    redis.call('HLEN', keys[4]), redis.call('ZCARD', keys[5]), redis.call('ZCOUNT', keys[5], '+inf', '+inf'),
    tonumber(oldest[2] or 0), table.concat(waiting) }
end

-- bless: this state is right; sell from it as epoch `to`. Fails unless `from` is what stands there, so that a
-- former primary that comes back with an older state and an older blessing does not match.
-- KEYS sale   ARGV from, to   -> blessed | other, epoch that stands there | absent
local function bless(keys, args)
  local sale = keys[1]
  local epoch = redis.call('HGET', sale, 'epoch')
  if not epoch then return { 'absent' } end
  if epoch ~= args[1] or tonumber(args[2]) <= tonumber(epoch) then return { 'other', tonumber(epoch) } end
  redis.call('HSET', sale, 'epoch', args[2])
  blessed[sale] = args[2]
  return { 'blessed' }
end

-- restore: empties a sale and lays its stock anew, unblessed, at epoch `to` - 1, so that a bless(to - 1, to) ends
-- the rebuild. The caller skips a number (`to` is the last blessed epoch plus 2), so that no interpreter ever held a
-- blessing for the half-built state. What follows it (`restore_holds`) works on an unblessed sale alone.
-- KEYS sale units holds users pending idem0 idem1 idem2   ARGV to, capacity, rseq, settings (10)
-- -> restored | blessed, epoch that stands there
local function restore(keys, args)
  local sale = keys[1]
  local epoch = redis.call('HGET', sale, 'epoch')
  local to, capacity = tonumber(args[1]), tonumber(args[2])
  if epoch and (blessed[sale] == epoch or tonumber(epoch) >= to) then return { 'blessed', tonumber(epoch) } end
  blessed[sale] = nil
  redis.call('UNLINK', unpack(keys))
  redis.call('SETRANGE', keys[2], math.ceil(capacity / 8) - 1, '\0')
  redis.call('HSET', sale, 'epoch', int(to - 1), 'capacity', int(capacity), 'free', int(capacity), 'low', '0',
    'rseq', args[3], settings(args, 4))
  return { 'restored' }
end

-- restore_holds: reservations that own their units, into a sale that `restore` has emptied.
-- KEYS sale units holds users   ARGV epoch the sale must have, (id16, record)...
-- -> restored, units taken | other | twice, unit
local function restore_holds(keys, args)
  local sale, units, holds, users = keys[1], keys[2], keys[3], keys[4]
  local s = redis.call('HMGET', sale, 'epoch', 'free')
  if s[1] ~= args[1] or blessed[sale] == s[1] then return { 'other' } end
  local taken = 0
  for i = 2, #args, 2 do
    local h = unpack_hold(args[i + 1])
    if redis.call('HEXISTS', holds, args[i]) == 0 then
      local list = numbers(h.units)
      for _, number in ipairs(list) do
        if redis.call('GETBIT', units, number - 1) == 1 then return { 'twice', number } end
      end
      for _, number in ipairs(list) do redis.call('SETBIT', units, number - 1, 1) end
      taken = taken + #list
      redis.call('HSET', holds, args[i], args[i + 1])
      redis.call('HSET', users, h.user, (redis.call('HGET', users, h.user) or '') .. args[i] .. struct.pack('>I2', #list))
      redis.call('HINCRBY', sale, 'free', -#list)
    end
  end
  return { 'restored', taken }
end

local function register(name, callback, flags)
  redis.register_function { function_name = name .. '_@HASH@', callback = callback, flags = flags }
end

register('create', create)
register('configure', configure)
register('reserve', reserve)
register('cancel', cancel)
register('hold', hold, { 'no-writes' })
register('stock', stock, { 'no-writes' })
register('seats', seats, { 'no-writes' })
register('clear', clear)
register('settle', settle)
register('give_back', give_back)
register('forget', forget)
register('bury', bury)
register('overdue', overdue, { 'no-writes' })
register('inspect', inspect, { 'no-writes' })
register('bless', bless)
register('restore', restore)
register('restore_holds', restore_holds)
