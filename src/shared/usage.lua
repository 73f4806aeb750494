-- Adds what a replica has counted in a day to the sums of all replicas.
--
-- KEYS[1]  a hash: the sums, by row
-- KEYS[2]  a hash: what this replica has told, by row
-- KEYS[3]  a hash: the number of rows of each key
-- ARGV     the greatest number of rows of a key; the life of the sums, and of what was told, in
--          milliseconds; for each row: its name, the name of the row for other models, the key, and the
--          replica's own sums of requests, input, cached, output and estimated tokens
-- returns  the number of rows that had something new
--
-- A row has five numbers, with spaces between them. What was told before is no news, so a row that is told
-- twice counts once.

local OF_ROW, NUMBERS = 8, 5

local function read(text)
  local numbers = {}
  for number in string.gmatch(text or '', '%d+') do numbers[#numbers + 1] = tonumber(number) end
  for index = 1, NUMBERS do numbers[index] = numbers[index] or 0 end
  return numbers
end

local function text(numbers)
  local texts = {}
  for index = 1, NUMBERS do texts[index] = string.format('%.0f', numbers[index]) end
  return table.concat(texts, ' ')
end

local most, news = tonumber(ARGV[1]), 0
for at = 3, #ARGV - OF_ROW, OF_ROW do
  local row, other, key = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local told, own, is_new = read(redis.call('HGET', KEYS[2], row)), {}, false
  for index = 1, NUMBERS do
    own[index] = math.max(told[index], tonumber(ARGV[at + 3 + index]))
    is_new = is_new or own[index] > told[index]
  end
  if is_new then
    local sum = redis.call('HGET', KEYS[1], row)
    if not sum then
      local rows = tonumber(redis.call('HGET', KEYS[3], key) or 0)
      if rows < most then
        redis.call('HSET', KEYS[3], key, rows + 1)
      else
        row, sum = other, redis.call('HGET', KEYS[1], other)
      end
    end
    local sums = read(sum)
    for index = 1, NUMBERS do sums[index] = sums[index] + own[index] - told[index] end
    redis.call('HSET', KEYS[1], row, text(sums))
    redis.call('HSET', KEYS[2], ARGV[at + 1], text(own))
    news = news + 1
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
return news
