-- Tries each command that the scripts need, on a key of its own.
--
-- KEYS     two names that nothing else uses
-- returns  the commands that the user may not run

local a, b = KEYS[1], KEYS[2]
local refused = {}
-- What servers say of a missing right: Redis 7.0 in a script, then later ones and Valkey in a
-- script, then all outside of scripts.
local refusals = { "can't run this command", 'ACL failure', 'NOPERM' }
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  local fault = type(answer) == 'table' and answer.err or ''
  for _, refusal in ipairs(refusals) do
    if string.find(fault, refusal, 1, true) then
      refused[#refused + 1] = string.lower(command)
      break
    end
  end
end
try('TIME')
try('HSET', a, 'f', '1')
try('HGET', a, 'f')
try('HLEN', a)
try('HGETALL', a)
try('HSCAN', a, '0')
try('PEXPIRE', a, 60000)
try('PERSIST', a)
try('RENAME', a, b)
try('HDEL', b, 'f')
try('ZADD', a, 1, 'm')
try('ZCARD', a)
try('ZRANGE', a, 0, -1)
try('ZREMRANGEBYRANK', a, 0, -1)
try('UNLINK', a, b)
return refused
