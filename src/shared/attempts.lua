-- Counts failed attempts of an address in all replicas together.
--
-- KEYS[1]  a hash of addresses, one of several: the first failure and the number of failures of each
-- KEYS[2]  a sorted set of the addresses that have used up their attempts, by the time at which they had
-- ARGV     address, attempts to count, attempts that an address has, the time in which it has them,
--          1 if the attempts were granted already
-- returns  1 if the address had used up its attempts before, the time that it has to wait now, or 0
--
-- Times are microseconds since 2026.

-- Addresses in one hash, and among those that have used up their attempts. The addresses with the fewest
-- failures are forgotten first, so a flood of addresses hides no offender.
local MOST, MOST_EXHAUSTED, SAMPLES = 4096, 4096, 8

local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local address, count, most, per = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

-- Returns the first failure and the number of failures as they are now.
local function failures(packed)
  if not packed then return now, 0 end
  local since, number = unpack(cmsgpack.unpack(packed))
  if now - since >= per then return now, 0 end
  return since, number
end

local packed = redis.call('HGET', KEYS[1], address)
local since, number = failures(packed)
local refused = 0
if number >= most then
  refused = 1
elseif count > 0 then
  local after = math.min(number + count, most)
  if ARGV[5] ~= '1' and number + count > most then refused = 1 end
  if not packed and redis.call('HLEN', KEYS[1]) >= MOST then
    local fewest, forgotten = math.huge, nil
    for _ = 1, SAMPLES do
      local other = redis.call('HRANDFIELD', KEYS[1])
      local _, of_other = failures(redis.call('HGET', KEYS[1], other))
      if of_other < fewest then fewest, forgotten = of_other, other end
    end
    redis.call('HDEL', KEYS[1], forgotten)
  end
  number = after
  redis.call('HSET', KEYS[1], address, cmsgpack.pack({ since, number }))
  redis.call('PEXPIRE', KEYS[1], math.ceil(per / 1000) + 1000)
  if number >= most then
    local wait = string.format('%s %.0f %.0f', address, per, since + per)
    redis.call('ZADD', KEYS[2], now, wait)
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -MOST_EXHAUSTED - 1)
    redis.call('PEXPIRE', KEYS[2], math.ceil(per / 1000) + 1000)
  end
end
return { refused, number >= most and math.max(1, math.ceil(since + per - now)) or 0 }
