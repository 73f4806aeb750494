-- Adds entries to a store that is not in service yet. It is forgotten if it is not completed.
--
-- KEYS     entries, taken, both of the new store
-- ARGV[1]  the life of the new store in milliseconds
-- ARGV[2]  the number of entries; then, for each entry: id, text, number of labels, labels
-- returns  the number of entries of the new store

local at = 3
for _ = 1, tonumber(ARGV[2]) do
  local id, labels = ARGV[at], tonumber(ARGV[at + 2])
  redis.call('HSET', KEYS[1], id, ARGV[at + 1])
  for i = 1, labels do redis.call('HSET', KEYS[2], ARGV[at + 2 + i], id) end
  at = at + 3 + labels
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.call('HLEN', KEYS[1])
