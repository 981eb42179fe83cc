-- Appends events to a ledger: all or none, once, and only onto the state that they were decided on.
--
-- KEYS  1 events (stream)  2 meta (hash)  3 ids (hash: event id -> seq)  4 about (hash: edit id -> seqs)
--       5 live (hash: edit id -> seq of the event that made it live; what follows from which edit is not known here,
--         so that derived edits stay when their parent goes)  6 vectors (hash: text hash -> bytes)
-- ARGV  1 expected last seq, or -1 for whatever it is  2 expected last event id, or ''
--       3 fingerprint of the writer's encoder, or ''  4 number of events n
--       then n times: event id, record, edit id, replaced edit id or '', '1' if the edit is live afterwards
--       then pairs of text hash and vector
-- With n = 0 and an expected state: whether that is the state, written to all the same ('confirmed').
-- Returns {'appended' | 'known' | 'confirmed' | 'moved', last seq of these events, or of the ledger}

local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last, last_id = 0, ''
if newest then
  last = tonumber(string.match(newest[1], '^%d+'))
  last_id = newest[2][2]
end

local fingerprint = ARGV[3]
local count = tonumber(ARGV[4])
if count > 0 then
  local known = redis.call('HGET', KEYS[3], ARGV[5])
  if known then
    -- A repetition after a lost answer. Written to all the same, so that WAIT has something to wait for.
    redis.call('HSET', KEYS[2], 'repeated', ARGV[5])
    return { 'known', tonumber(known) + count - 1 }
  end
end
local expected = tonumber(ARGV[1])
if expected >= 0 then
  if expected ~= last or (ARGV[2] ~= '' and ARGV[2] ~= last_id) then
    return { 'moved', last }
  end
  if count == 0 then
    redis.call('HSET', KEYS[2], 'confirmed', last)
    return { 'confirmed', last }
  end
end

local function happened(edit_id, seq)
  local before = redis.call('HGET', KEYS[4], edit_id)
  redis.call('HSET', KEYS[4], edit_id, before and (before .. ',' .. seq) or seq)
end

local place = 5
for i = 1, count do
  local seq = string.format('%d', last + i)
  local id, record, edit_id, replaced, live = unpack(ARGV, place, place + 4)
  redis.call('XADD', KEYS[1], seq .. '-0', 'i', id, 'e', record, 'f', fingerprint)
  redis.call('HSET', KEYS[3], id, seq)
  happened(edit_id, seq)
  if replaced ~= '' then
    if replaced ~= edit_id then happened(replaced, seq) end
    redis.call('HDEL', KEYS[5], replaced)
  end
  if live == '1' then
    redis.call('HSET', KEYS[5], edit_id, seq)
  else
    redis.call('HDEL', KEYS[5], edit_id)
  end
  place = place + 5
end
local function encodes(name)
  return name and name ~= '' and string.sub(name, 1, 8) ~= 'derived/' -- the others mark what was computed from edits
end
if encodes(fingerprint) then
  if not encodes(redis.call('HGET', KEYS[2], 'encoder')) then
    redis.call('HSET', KEYS[2], 'encoder', fingerprint)
  end
  redis.call('HSETNX', KEYS[2], 'vectors:' .. fingerprint, 1)
end
for i = place, #ARGV, 2 do
  redis.call('HSETNX', KEYS[6], ARGV[i], ARGV[i + 1])
end
return { 'appended', last + count }
