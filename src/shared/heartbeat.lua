-- Renews a replica's registration, and tells it of the others, of the last outage, and of addresses that
-- have used up their failed attempts since.
--
-- KEYS[1]  a hash: its beginning, the time of the last heartbeat of any replica, and the last outage
-- KEYS[2]  a sorted set: the ids of the replicas, by the time at which their registrations end
-- KEYS[3]  a sorted set of addresses (see attempts.lua)
-- KEYS[4]  a hash: what each replica says of itself
-- ARGV     id, life of the registration or 0 to end it, the last time that the replica has seen here, or
--          0; the time without heartbeats that is an outage; what the replica says of itself
-- returns  now, outage_from, outage_to, is_wiped, the number of addresses, these, and each replica's id
--          and what it says of itself, in the order of the ids
--
-- Times are microseconds since 2026.

-- Longest time by which a copy of the data may be behind.
local LAG = 2000000

-- Addresses of one heartbeat, and how far heartbeats overlap.
local MOST, OVERLAP = 1024, 1000000

-- The names are forgotten in a day without any replica.
local FORGOTTEN = 86400000

local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local id, life, seen, longest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local state = redis.call('HMGET', KEYS[1], 'beat', 'from', 'to', 'wiped', 'born')
local beat, from, to, wiped = tonumber(state[1]), state[2] or '0', state[3] or '0', state[4] or '0'
local born = tonumber(state[5]) or now
local is_new = seen < born and tonumber(to) < born
-- A master that was promoted may have missed the last heartbeats. An older copy has missed more.
local is_old = beat and seen > beat + LAG
if seen > 0 and (is_new or is_old) then
  -- The server has lost what it knew: it was flushed, or restarted without its data, or with older data.
  from, to, wiped = string.format('%.0f', seen), string.format('%.0f', math.max(now, born)), '1'
elseif beat and now - beat > longest then
  from, to, wiped = string.format('%.0f', beat), string.format('%.0f', now), '0'
end
redis.call('HSET', KEYS[1], 'beat', string.format('%.0f', now), 'from', from, 'to', to, 'wiped', wiped,
  'born', string.format('%.0f', born))
if life > 0 then
  redis.call('ZADD', KEYS[2], now + life, id)
  redis.call('HSET', KEYS[4], id, ARGV[5])
else
  redis.call('ZADD', KEYS[2], now, id)
end
for key = 1, #KEYS do
  if key ~= 3 then redis.call('PEXPIRE', KEYS[key], FORGOTTEN) end
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
if #ended > 0 then
  redis.call('ZREM', KEYS[2], unpack(ended))
  redis.call('HDEL', KEYS[4], unpack(ended))
end
local ids = redis.call('ZRANGE', KEYS[2], 0, -1)
table.sort(ids)
local replicas = {}
for _, replica in ipairs(ids) do
  replicas[#replicas + 1] = replica
  replicas[#replicas + 1] = redis.call('HGET', KEYS[4], replica) or ''
end
local addresses = redis.call('ZREVRANGEBYSCORE', KEYS[3], '+inf', seen - OVERLAP, 'LIMIT', 0, MOST)
local out = { string.format('%.0f', now), from, to, wiped, tostring(#addresses) }
for _, list in ipairs({ addresses, replicas }) do
  for _, value in ipairs(list) do out[#out + 1] = value end
end
return out
