-- Reserves units of a holder's budgets for a request, in all of them or in none; or settles what a request
-- has used.
--
-- KEYS[1]  a hash of budgets, by unit and period: the begin and the end of the current period, what was
--          used, what is reserved, and the share that was told, packed
-- ARGV     'reserve' or 'settle', and the number of budgets; for each:
--          its field, the begin and the end of its period by the replica's clock, its amount,
--          units to reserve (reserve) or to reserve no longer (settle),
--          what the replica last knew to be used (reserve) or what was used (settle; below zero to take
--          back), 1 if it counts requests, which are used at once
-- returns  0, or the index of the budget that refuses; for each budget: begin and end of its period, what
--          was used, 80 or 100 if it has passed this share just now and else 0
--
-- Times are seconds since 1970. A budget begins anew when a replica's clock says so first. A replica whose
-- clock is behind goes on in the period that has begun.

-- A period is remembered for a day after its end.
local REMEMBERED = 86400

local time = redis.call('TIME')
local now = tonumber(time[1])
local is_settling, count = ARGV[1] == 'settle', tonumber(ARGV[2])
local OF_BUDGET = 7

local fields, asked = {}, {}
for index = 1, count do
  local at = 2 + (index - 1) * OF_BUDGET
  fields[index] = ARGV[at + 1]
  asked[index] = {
    from = tonumber(ARGV[at + 2]), to = tonumber(ARGV[at + 3]), amount = tonumber(ARGV[at + 4]),
    units = tonumber(ARGV[at + 5]), used = tonumber(ARGV[at + 6]), counts_requests = ARGV[at + 7] == '1',
  }
end

local known, states = redis.call('HMGET', KEYS[1], unpack(fields)), {}
for index = 1, count do
  local want, state = asked[index], nil
  if known[index] then
    local from, to, used, reserved, told = unpack(cmsgpack.unpack(known[index]))
    state = { from = from, to = to, used = used, reserved = reserved, told = told }
  end
  if not is_settling then
    if not state or want.from >= state.to then
      state = { from = want.from, to = want.to, used = 0, reserved = 0, told = 0 }
    elseif want.from > state.from then
      -- The zone of the budget has changed.
      state.from, state.to = want.from, want.to
    end
    -- A server that has lost its data learns what was used from the replicas.
    if state.from == want.from then state.used = math.max(state.used, want.used) end
  end
  states[index] = state or false
end

local refused, latest = 0, 0
if not is_settling then
  for index = 1, count do
    local want, state = asked[index], states[index]
    if state.used + state.reserved + math.max(want.units, 1) > want.amount and state.to > latest then
      refused, latest = index, state.to
    end
  end
end

local out, last = { tostring(refused) }, now
for index = 1, count do
  local want, state = asked[index], states[index]
  local passed = 0
  if state and (not is_settling or state.from == want.from) then
    if is_settling then
      state.reserved = math.max(0, state.reserved - want.units)
      state.used = math.max(0, state.used + want.used)
    elseif refused == 0 then
      local kind = want.counts_requests and 'used' or 'reserved'
      state[kind] = state[kind] + want.units
    end
    local share = state.used >= want.amount and 100 or state.used >= 0.8 * want.amount and 80 or 0
    if share > state.told then state.told, passed = share, share end
    redis.call('HSET', KEYS[1], fields[index],
      cmsgpack.pack({ state.from, state.to, state.used, state.reserved, state.told }))
    last = math.max(last, state.to)
  end
  state = state or want
  for _, value in ipairs({ state.from, state.to, state.used, passed }) do
    out[#out + 1] = string.format('%.0f', value)
  end
end
-- A settlement does not make a budget of a shorter period end the others earlier.
if not is_settling then redis.call('PEXPIRE', KEYS[1], math.max(1, last - now + 32 * REMEMBERED) * 1000) end
return out
