-- Reserves units of a holder's budgets for a request, in all of them or in none; or settles what a request
-- has used.
--
-- KEYS[1]  a hash of budgets, by unit and period: the begin and the end of the current period, what was
--          used, what is reserved, and the share that was told, packed
-- KEYS[2]  a sorted set of the settlements of late, by the time at which they were made
-- ARGV     'reserve', or the id of a settlement, which is made once however often it is sent; and the number
--          of budgets; for each:
--          its field, the begin and the end of its period by the replica's clock, its amount,
--          units to reserve (reserve), or to reserve no longer (settle),
--          what the replica last knew to be used (reserve), or what was used (settle; below zero to take
--          back),
--          the least that the request needs (reserve); 1 if it counts requests, which are used at once
-- returns  0, or the index of the budget that refuses; for each budget: begin and end of its period, what
--          was used, 80 or 100 if it has passed this share just now and else 0, what was reserved.
--          The end is 0 if the server knows nothing of the period.
--
-- Times are seconds since 1970. Replicas know the calendar; whether a period has begun or ended is decided
-- by the server's clock.

-- A period is remembered for a month after its end, and a settlement for an hour.
local REMEMBERED, SETTLED, MOST_SETTLED = 32 * 86400, 3600, 10000

-- How far the clock of a replica may be ahead.
local AHEAD = 60

local time = redis.call('TIME')
local now = tonumber(time[1])
local is_settling, count = ARGV[1] ~= 'reserve', tonumber(ARGV[2])
local OF_BUDGET = 8

local fields, asked = {}, {}
for index = 1, count do
  local at = 2 + (index - 1) * OF_BUDGET
  fields[index] = ARGV[at + 1]
  asked[index] = {
    from = tonumber(ARGV[at + 2]), to = tonumber(ARGV[at + 3]), amount = tonumber(ARGV[at + 4]),
    units = tonumber(ARGV[at + 5]), used = tonumber(ARGV[at + 6]), least = tonumber(ARGV[at + 7]),
    counts_requests = ARGV[at + 8] == '1',
  }
end

local is_new = true
if is_settling then
  is_new = redis.call('ZADD', KEYS[2], now, ARGV[1]) == 1
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -MOST_SETTLED - 1)
  redis.call('PEXPIRE', KEYS[2], SETTLED * 1000)
end

local known, states = redis.call('HMGET', KEYS[1], unpack(fields)), {}
for index = 1, count do
  local want, state = asked[index], nil
  if known[index] then
    local from, to, used, reserved, told = unpack(cmsgpack.unpack(known[index]))
    state = { from = from, to = to, used = used, reserved = reserved, told = told }
  end
  if not is_settling then
    local has_begun = want.from <= now + AHEAD
    if not state then
      -- A server that has lost its data learns what was used from the replicas.
      state = { from = want.from, to = want.to, used = want.used, reserved = 0, told = 0 }
    elseif has_begun and want.from >= state.to then
      state = { from = want.from, to = want.to, used = 0, reserved = 0, told = 0 }
    elseif has_begun and (want.from > state.from or state.from > now + AHEAD) and want.to > now then
      -- The zone of the budget has changed; or the period was begun by a clock that was ahead.
      state.from, state.to = want.from, want.to
    end
  end
  states[index] = state or false
end

local refused, latest = 0, 0
if not is_settling then
  for index = 1, count do
    local want, state = asked[index], states[index]
    if state.used + state.reserved + math.max(want.least, 1) > want.amount and state.to > latest then
      refused, latest = index, state.to
    end
  end
end

local out, last = { tostring(refused) }, now
for index = 1, count do
  local want, state = asked[index], states[index]
  local passed, taken = 0, 0
  if state and (not is_settling or (is_new and state.from == want.from)) then
    if is_settling then
      state.reserved = math.max(0, state.reserved - want.units)
      state.used = math.max(0, state.used + want.used)
    elseif refused == 0 then
      -- All that is left may be used: a guess reserves no more.
      taken = math.min(want.units, want.amount - state.used - state.reserved)
      local kind = want.counts_requests and 'used' or 'reserved'
      state[kind] = state[kind] + taken
    end
    local share = state.used >= want.amount and 100 or state.used >= 0.8 * want.amount and 80 or 0
    if share > state.told then state.told, passed = share, share end
    redis.call('HSET', KEYS[1], fields[index],
      cmsgpack.pack({ state.from, state.to, state.used, state.reserved, state.told }))
    last = math.max(last, state.to)
  end
  local told = state or { from = want.from, to = 0, used = 0 }
  for _, value in ipairs({ told.from, told.to, told.used, passed, taken }) do
    out[#out + 1] = string.format('%.0f', value)
  end
end
if not is_settling then redis.call('PEXPIRE', KEYS[1], (last - now + REMEMBERED) * 1000) end
return out
