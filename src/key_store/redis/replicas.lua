-- Returns the registered replicas.
--
-- KEYS     replicas
-- returns  id, generation and name of the store of each replica

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local registered, answer = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #registered, 2 do
  local ends, generation, store = string.match(registered[i + 1], '^(%d+) (%d+) (.*)$')
  if ends and tonumber(ends) > now then
    for _, value in ipairs({ registered[i], generation, store }) do answer[#answer + 1] = value end
  end
end
return answer
