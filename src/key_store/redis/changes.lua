-- Returns what changed after a generation.
--
-- KEYS     entries, state, changes
-- ARGV     the name of the store that is known, or ''; its generation; the most changes that are
--          returned; the most bytes of an entry
-- returns  the store's name or '', its generation, its number of entries, 1 if the entries that
--          follow are all that changed; then id, text or '' of each changed entry

local store = redis.call('HGET', KEYS[2], 'store') or ''
local generation = redis.call('HGET', KEYS[2], 'generation') or '0'
local count = redis.call('HLEN', KEYS[1])
local answer = { store, generation, count, 0 }
local known = tonumber(ARGV[2])
if store == '' or store ~= ARGV[1] or known > (tonumber(generation) or -1) then return answer end
if known < (tonumber(redis.call('HGET', KEYS[2], 'floor') or '0') or 2 ^ 53) then return answer end
local most, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local ids = redis.call('ZRANGE', KEYS[3], '(' .. ARGV[2], '+inf', 'BYSCORE', 'LIMIT', 0, most + 1)
if #ids > most then return answer end
answer[4] = 1
for _, id in ipairs(ids) do
  answer[#answer + 1] = id
  answer[#answer + 1] = string.sub(redis.call('HGET', KEYS[1], id) or '', 1, bytes + 1)
end
return answer
