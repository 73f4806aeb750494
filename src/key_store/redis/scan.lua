-- Returns some entries of a store.
--
-- KEYS     entries, state
-- ARGV     cursor; about how many entries; the most bytes of an entry
-- returns  the store's name or '', its generation, its number of entries, the next cursor; then id
--          and text of each entry

local store = redis.call('HGET', KEYS[2], 'store') or ''
local generation = redis.call('HGET', KEYS[2], 'generation') or '0'
local count = redis.call('HLEN', KEYS[1])
local piece = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local answer, bytes = { store, generation, count, piece[1] }, tonumber(ARGV[3])
for _, text in ipairs(piece[2]) do
  answer[#answer + 1] = string.sub(text, 1, bytes + 1)
end
return answer
