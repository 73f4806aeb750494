-- Returns entries by their ids.
--
-- KEYS     entries, state
-- ARGV     the most bytes of an entry; ids
-- returns  the store's name or '', its generation, its number of entries; then text or '' of each

local store = redis.call('HGET', KEYS[2], 'store') or ''
local generation = redis.call('HGET', KEYS[2], 'generation') or '0'
local answer = { store, generation, redis.call('HLEN', KEYS[1]) }
for i = 2, #ARGV do
  answer[#answer + 1] = string.sub(redis.call('HGET', KEYS[1], ARGV[i]) or '', 1, tonumber(ARGV[1]) + 1)
end
return answer
