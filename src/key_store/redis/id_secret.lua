-- Returns the secret that makes ids of credentials.
--
-- KEYS     secrets
-- ARGV     the secret that is kept if there is none yet, or '' to keep none
-- returns  the secret that is kept, or ''

local kept = redis.call('HGET', KEYS[1], 'ids')
if not kept and ARGV[1] ~= '' then
  kept = ARGV[1]
  redis.call('HSET', KEYS[1], 'ids', kept)
end
return kept or ''
