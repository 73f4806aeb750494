-- Leases of one key's windows, in one atomic step. A window is a bucket of `burst` units that regains a
-- unit each `period` microseconds. A lease is a number of units that a replica has taken out, and may
-- spend until the lease ends.
--
-- Invariant: at every instant, what is left in a bucket and what replicas hold as leases are `burst`
-- units at most. So at most `burst + t / period` units are spent in any time t, however leases are spent.
--
-- KEYS[1]  the hash of the key, with one field for each window
-- ARGV     windows, refunds, requests, outage_from, outage_to, is_wiped; then for each window:
--            name, is_enforced, period, burst, width, extra, slot, gone, left, back, debt, away, line, full_in
--          for each refund: the window, units that were charged and not used, the line behind the charge
--          and for each request its cost in each window, or -1 if the window does not concern it
-- returns  for each window: units leased, 1 if the lease goes on, slot, time until the lease ends,
--            units left in the bucket, time until the bucket is full, its line
--          and for each request: the window that refuses it or 0, the wait, the window that only counts
--            and would refuse it or 0, the wait
--
-- The line of a bucket is the time at which it is full, plus all time that was ever given back. It never
-- goes back, so it says when a charge is regained: when the time has reached the line behind the charge,
-- less what was given back since. What was regained is not given back, because others were granted it.
--
-- Times are microseconds since 2026, which a double holds to a hundredth of a microsecond.

local HEAD, FIELDS = 6, 14

-- Longest time for which a full bucket is remembered, for requests that may still give back.
local REMEMBERED = 3600000000
-- For this time after an outage, all is taken as used that the replicas may have granted meanwhile.
local GRACE = 1000000

local time = redis.call('TIME')
local now = (time[1] - 1767225600) * 1000000 + time[2]
local count, refunds, requests = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local from, to, is_wiped = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'

local names = {}
for i = 1, count do names[i] = ARGV[HEAD + 1 + FIELDS * (i - 1)] end
local stored = redis.call('HMGET', KEYS[1], unpack(names))

-- Returns the state of a bucket as it is now: the time at which it is full, the units in leases of the
-- current slot and of the one before, and the time that was given back. A lease ends with the slot behind
-- its own. `full_in`: the time until the bucket is full, as the replica knows it.
local function bucket(state, period, burst, width, full_in)
  local current = math.floor(now / width)
  if not state then
    -- A bucket that is not full is not forgotten. If one is missing, the server has lost it.
    if full_in > 0 then return now + burst * period, 0, 0, 0, false end
    return is_wiped and math.max(now, to + burst * period) or now, 0, 0, 0, false
  end
  local full, period_before, width_before, slot, held, held_before, given, made = unpack(cmsgpack.unpack(state))
  -- A replica that knew nothing of the loss may have made the bucket before the others told of it.
  local is_known = not is_wiped or made >= to
  if not is_known then full = math.max(full, to + burst * period_before) end
  if period_before ~= period and full > now then
    local moved = now + (full - now) / period_before * period
    full, given = moved, given + math.max(0, full - moved)
  end
  if width_before ~= width then
    local has_ended = now >= (slot + 2) * width_before
    held, held_before, slot = has_ended and 0 or held + held_before, 0, current
  end
  -- Until a lease ends, the bucket regains no more than the leases leave room for.
  full = math.max(full, math.min(now, (slot + 1) * width) + (held + held_before) * period)
  if current == slot then return full, held, held_before, given, is_known end
  full = math.max(full, math.min(now, (slot + 2) * width) + held * period)
  if current == slot + 1 then return full, 0, held, given, is_known end
  return math.max(full, now), 0, 0, given, is_known
end

-- Gives time back to a bucket, but not what its leases hold.
local function give_back(w, time)
  local least = now + (w.held + w.held_before) * w.period
  local given = math.max(0, math.min(time, w.full - least))
  w.full, w.given = w.full - given, w.given + given
end

local windows = {}
for i = 1, count do
  local at = HEAD + 1 + FIELDS * (i - 1)
  local function number(n) return tonumber(ARGV[at + n]) end
  local w = { is_enforced = ARGV[at + 1] == '1', period = number(2), burst = number(3), width = number(4) }
  local slot, gone, left, back, debt, away = number(6), number(7), number(8), number(9), number(10), number(11)
  w.extra, w.leased, w.kept = number(5), 0, 1
  local is_known
  w.full, w.held, w.held_before, w.given, is_known = bucket(stored[i], w.period, w.burst, w.width, number(13))
  w.slot = math.floor(now / w.width)
  if slot == w.slot then
    w.held = math.max(0, w.held - gone - left) + left
  elseif slot == w.slot - 1 then
    w.held_before = math.max(0, w.held_before - gone - left)
    w.held = w.held + left
  elseif left > 0 then
    back, w.kept = back + left, 0
  end
  -- What was granted before the loss was told of is in the bucket, which began empty.
  if is_wiped and not is_known then away = 0 end
  -- A line that a replica has seen is never ahead, even if the bucket was forgotten meanwhile. Then all
  -- that was charged up to that line is regained.
  local line = number(12)
  if line > w.full + w.given then w.given = line - now end
  w.full = math.max(w.full + (debt + away) * w.period, now + (w.held + w.held_before) * w.period)
  give_back(w, math.min(back * w.period, line - w.given - now))
  w.assumed = (to > 0 and not is_wiped and now < to + GRACE) and math.min(to - from, w.burst * w.period) or 0
  windows[i] = w
end

for j = 1, refunds do
  local at = HEAD + FIELDS * count + 3 * (j - 1)
  local w, units, line = windows[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  give_back(w, math.min(units * w.period, line - w.given - now))
end

local function room(w) return (now + w.burst * w.period - w.full - w.assumed) / w.period + 1e-6 end

-- Returns the time until a window grants this many units.
local function wait(w, units)
  local time = w.full + w.assumed + (units - w.burst) * w.period - now
  if units > w.burst - w.held - w.held_before then time = math.max(time, (w.slot + 1) * w.width - now) end
  if units > w.burst - w.held then time = math.max(time, (w.slot + 2) * w.width - now) end
  return math.max(1, math.ceil(time))
end

local all, outcomes = true, {}
for j = 1, requests do
  local at = HEAD + FIELDS * count + 3 * refunds + (j - 1) * count
  local refused, refused_wait, would, would_wait = 0, 0, 0, 0
  for i = 1, count do
    local w, cost = windows[i], tonumber(ARGV[at + i])
    local need = math.min(cost, w.burst)
    if cost > 0 and room(w) < need then
      local time = wait(w, need)
      if w.is_enforced and time > refused_wait then refused, refused_wait = i, time end
      if not w.is_enforced and time > would_wait then would, would_wait = i, time end
    end
  end
  for i = 1, count do
    local w, cost = windows[i], tonumber(ARGV[at + i])
    if refused == 0 and cost > 0 and (w.is_enforced or room(w) >= math.min(cost, w.burst)) then
      w.full = w.full + cost * w.period
    end
  end
  all = all and refused == 0
  for _, value in ipairs({ refused, refused_wait, would, would_wait }) do outcomes[#outcomes + 1] = value end
end

local out, set, longest = {}, {}, 0
for i = 1, count do
  local w = windows[i]
  if all and w.extra > 0 then
    w.leased = math.max(0, math.min(w.extra, math.floor(room(w) / 4)))
    w.full = w.full + w.leased * w.period
    w.held = w.held + w.leased
  end
  set[2 * i - 1] = names[i]
  set[2 * i] = cmsgpack.pack({ w.full, w.period, w.width, w.slot, w.held, w.held_before, w.given, now })
  longest = math.max(longest, w.full - now, 2 * w.width, math.min(w.full + w.given - now, REMEMBERED))
  local lasts = math.floor((w.slot + 2) * w.width - now)
  local left, full_in = math.max(0, math.floor(room(w))), math.max(0, math.ceil(w.full + w.assumed - now))
  local line = math.floor(w.full + w.given)
  for _, value in ipairs({ w.leased, w.kept, w.slot, lasts, left, full_in, line }) do out[#out + 1] = value end
end
redis.call('HSET', KEYS[1], unpack(set))
redis.call('PEXPIRE', KEYS[1], math.ceil(longest / 1000) + 1000)
for _, value in ipairs(outcomes) do out[#out + 1] = value end
return out
