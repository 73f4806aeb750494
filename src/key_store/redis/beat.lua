-- Registers a replica, or takes its registration out, and returns the state of the store.
--
-- KEYS     entries, state, replicas
-- ARGV     the replica's id; the life of its registration in milliseconds, 0 to take it out; the
--          generation and the name of the store that it has applied
-- returns  the store's name or '', its generation, its number of entries, the number of replicas

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local registered, others = redis.call('HGETALL', KEYS[3]), 0
for i = 1, #registered, 2 do
  if registered[i] ~= ARGV[1] then
    local ends = tonumber(string.match(registered[i + 1], '^(%d+) '))
    if ends and ends > now then others = others + 1 else redis.call('HDEL', KEYS[3], registered[i]) end
  end
end
local life = tonumber(ARGV[2])
if life > 0 then
  redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', now + life) .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
  others = others + 1
else
  redis.call('HDEL', KEYS[3], ARGV[1])
end
local store = redis.call('HGET', KEYS[2], 'store') or ''
return { store, redis.call('HGET', KEYS[2], 'generation') or '0', redis.call('HLEN', KEYS[1]), others }
