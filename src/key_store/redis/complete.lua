-- Puts a new store in the place of the old one.
--
-- KEYS     entries, state, changes, taken; entries and taken of the new store
-- ARGV     the new store's name; its number of entries; 1: an old store may be replaced
-- returns  'done', the store's name, its generation; or a reason, and what it is about

local count = redis.call('HLEN', KEYS[1])
if ARGV[3] ~= '1' and (count > 0 or redis.call('HGET', KEYS[2], 'store')) then
  redis.call('UNLINK', KEYS[5], KEYS[6])
  return { 'exists', tostring(count) }
end
if redis.call('HLEN', KEYS[5]) ~= tonumber(ARGV[2]) then return { 'changed', '' } end
redis.call('UNLINK', KEYS[1], KEYS[3], KEYS[4])
redis.call('RENAME', KEYS[5], KEYS[1])
redis.call('RENAME', KEYS[6], KEYS[4])
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[4])
-- See edit.lua. A damaged generation does not prevent that a store is brought back.
local time, generation = redis.call('TIME'), tonumber(redis.call('HGET', KEYS[2], 'generation') or '0')
if not generation or generation < 0 or generation >= 2 ^ 52 then generation = 0 end
generation = string.format('%.0f', math.max(generation + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[2], 'store', ARGV[1], 'generation', generation, 'floor', generation)
return { 'done', ARGV[1], generation }
