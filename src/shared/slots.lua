-- The slots of one key: how many requests of it each replica may have in flight.
--
-- KEYS[1]  a hash: the slots that each replica holds, and the end of their life
-- ARGV     the id of the replica, the number of slots that it wants to hold, the limit of all replicas,
--          the life of slots, its part of the limit, the end of the last outage or 0, its requests in flight
-- returns  the number of slots that the replica holds now
--
-- Times are microseconds since 2026.

-- For this time after an outage, a replica gets no more than its part: the others may use theirs, and
-- have not told it.
local GRACE = 1000000

local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local id, want, limit, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local part, outage_to, in_use = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local others, own, ended = 0, 0, {}
local state = redis.call('HGETALL', KEYS[1])
for i = 1, #state, 2 do
  local count, ends = unpack(cmsgpack.unpack(state[i + 1]))
  if state[i] == id then
    own = ends > now and count or 0
  elseif ends > now then
    others = others + count
  else
    ended[#ended + 1] = state[i]
  end
end
local free = limit - others
if outage_to > 0 and now < outage_to + GRACE then free = math.min(free, part) end
-- Requests that are in flight stay so, even if the limit was lowered, or they began without the server.
local held = math.max(0, math.min(want, math.max(free, math.min(own, want), in_use)))
if #ended > 0 then redis.call('HDEL', KEYS[1], unpack(ended)) end
if held > 0 then
  redis.call('HSET', KEYS[1], id, cmsgpack.pack({ held, now + life }))
  redis.call('PEXPIRE', KEYS[1], math.ceil(life / 1000) + 1000)
else
  redis.call('HDEL', KEYS[1], id)
end
return held
