-- Notes when keys were last used.
--
-- KEYS[1]  a sorted set: keys, by when they were last used
-- KEYS[2]  a hash: when the first use was noted (`since`)
-- ARGV     the life of both in milliseconds; for each key: when it was last used, and the key
-- returns  the number of keys that were forgotten
--
-- Times are microseconds since 1970.

local time = redis.call('TIME')
local now, life = time[1] * 1000000 + time[2], tonumber(ARGV[1])
if not redis.call('HGET', KEYS[2], 'since') then
  redis.call('HSET', KEYS[2], 'since', string.format('%.0f', now))
end
for at = 2, #ARGV - 1, 2 do
  redis.call('ZADD', KEYS[1], 'GT', ARGV[at], ARGV[at + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - life * 1000))
