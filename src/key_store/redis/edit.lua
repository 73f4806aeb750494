-- Changes entries of a store, all of them or none.
--
-- KEYS     entries, state, changes, taken, replicas
-- ARGV[1]  1: the edit may begin a store if the server has none
-- ARGV[2]  the name of a store that begins
-- ARGV[3]  how many of the last changes are noted
-- ARGV[4]  the number of edits; then, for each edit:
--          id, old text or '', new text or '', number of new labels, new labels,
--          number of old labels, old labels
-- returns  'done', the store's name, its generation; or a reason, and what it is about
--
-- A label is what no two keys may share: 'n:' and a name, or a hash.

local entries, state, changes, taken, replicas = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local time = redis.call('TIME')
-- The generation is a time in microseconds, so that it is another one if edits were lost at a
-- failover and others are made instead. It grows even if the clock is set back.
local generation = tonumber(redis.call('HGET', state, 'generation') or '0')
if not generation or generation < 0 or generation >= 2 ^ 52 then return { 'damaged', '' } end
generation = math.max(generation + 1, time[1] * 1000000 + time[2])

local store = redis.call('HGET', state, 'store')
if not store then
  if ARGV[1] ~= '1' then return { 'no store', '' } end
  if redis.call('HLEN', entries) > 0 then return { 'unmarked', '' } end
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local registered = redis.call('HGETALL', replicas)
  for i = 1, #registered, 2 do
    local ends, generation = string.match(registered[i + 1], '^(%d+) (%d+) ')
    if ends and tonumber(ends) > now and generation ~= '0' then return { 'in use', '' } end
  end
end

local at = 5
local function labels()
  local list = {}
  for i = 1, tonumber(ARGV[at]) do list[i] = ARGV[at + i] end
  at = at + #list + 1
  return list
end
local edits, freed = {}, {}
for i = 1, tonumber(ARGV[4]) do
  local edit = { id = ARGV[at], old = ARGV[at + 1], new = ARGV[at + 2] }
  at = at + 3
  edit.new_labels = labels()
  edit.old_labels = labels()
  edits[i] = edit
  for _, label in ipairs(edit.old_labels) do freed[edit.id .. ' ' .. label] = true end
end

-- Whether the entry of `owner` really has the label: another program may have changed the entry.
local function is_taken(label, owner)
  local text = redis.call('HGET', entries, owner)
  if not text then return false end
  if string.sub(label, 1, 2) ~= 'n:' then return string.find(text, label, 1, true) ~= nil end
  local is_json, key = pcall(cjson.decode, text)
  return not is_json or type(key) ~= 'table' or key.name == string.sub(label, 3)
end

local claimed, count = {}, redis.call('HLEN', entries)
local before = count
for _, edit in ipairs(edits) do
  local text = redis.call('HGET', entries, edit.id) or ''
  if text ~= edit.old then return { text ~= '' and edit.old == '' and 'exists' or 'changed', edit.id } end
  if edit.old == '' then count = count + 1 end
  if edit.new == '' then count = count - 1 end
  if claimed[edit.id] then return { 'exists', edit.id } end
  claimed[edit.id] = true
  for _, label in ipairs(edit.new_labels) do
    local owner = redis.call('HGET', taken, label)
    local is_free = not owner or owner == edit.id or freed[owner .. ' ' .. label]
    if claimed[label] or not is_free and is_taken(label, owner) then return { 'taken', label } end
    claimed[label] = true
  end
end
if count < 1 and before > 0 then return { 'last', '' } end

if not store then
  store = ARGV[2]
end
redis.call('HSET', state, 'store', store, 'generation', string.format('%.0f', generation))
for _, edit in ipairs(edits) do
  for _, label in ipairs(edit.old_labels) do
    if redis.call('HGET', taken, label) == edit.id then redis.call('HDEL', taken, label) end
  end
end
for _, edit in ipairs(edits) do
  if edit.new == '' then
    redis.call('HDEL', entries, edit.id)
  else
    redis.call('HSET', entries, edit.id, edit.new)
  end
  for _, label in ipairs(edit.new_labels) do redis.call('HSET', taken, label, edit.id) end
  redis.call('ZADD', changes, string.format('%.0f', generation), edit.id)
end
local excess = redis.call('ZCARD', changes) - tonumber(ARGV[3])
if excess > 0 then
  local last = redis.call('ZRANGE', changes, excess - 1, excess - 1, 'WITHSCORES')
  redis.call('HSET', state, 'floor', string.format('%.0f', tonumber(last[2])))
  redis.call('ZREMRANGEBYRANK', changes, 0, excess - 1)
end
return { 'done', store, string.format('%.0f', generation) }
