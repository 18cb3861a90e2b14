-- One limited thing: the bucket of its rate, and what it may still do today on the ledger's account.
--
-- KEYS[1]  its hash: next (µs since 1970), run, episode, version, begins, ends (µs), and a credit for each purpose
-- ARGV     offset, interval, tolerance, longest wait, handover: all µs; episode; version; purpose ("" has no day);
--          a block of the ledger's: count, begins, ends (µs)
-- Answers  {1, wait, stamp, ends} granted   {2, wait} no place   {3} draw a block   {4} the block's day is over
local key, now = KEYS[1], redis.call('TIME')
local offset, interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local longest, handover = tonumber(ARGV[4]), tonumber(ARGV[5])
local episode, version, purpose = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local count, begins, ends = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
now = now[1] * 1000000 + now[2] + offset

local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local had = redis.call('HMGET', key, 'next', 'run', 'episode', 'version', 'begins', 'ends', 'credit:' .. purpose)
local next, credit = tonumber(had[1] or 0), tonumber(had[7] or 0)
local day_begins, day_ends = tonumber(had[5] or 0), tonumber(had[6] or 0)
local forget = false

-- An empty bucket, when what was granted before is not known: another server, or one that has lost or restored.
local cold = now + tolerance + interval
if had[2] ~= run then
  next, day_ends, forget = cold + longest, 0, true
end
if episode > tonumber(had[3] or 0) then
  next = math.max(next, cold + handover)
else
  episode = tonumber(had[3] or 0)
end
next = math.min(next, cold + handover)
if version > tonumber(had[4] or 0) then
  day_ends, forget = 0, true
else
  version = tonumber(had[4] or 0)
end

local expired = false
if count > 0 and ends > day_ends then
  day_begins, day_ends, forget = begins, ends, true
end
if forget then
  credit = 0
  redis.call('HDEL', key, 'credit:orders', 'credit:others', 'credit:polls')
end
if count > 0 and ends == day_ends then
  credit = credit + count
end

local answer
local wait = math.max(next - tolerance - now, 0)
if purpose ~= '' and now >= day_ends then
  credit = 0
  answer = { count > 0 and 4 or 3 }
elseif purpose ~= '' and now < day_begins then
  answer = { 2, day_begins - now }
elseif wait > longest then
  answer = { 2, wait }
elseif purpose ~= '' and credit < 1 then
  answer = { 3 }
else
  answer = { 1, wait, now + wait, day_ends }
  next = math.max(next, now + wait) + interval
  credit = credit - 1
end

local function whole(number)
  return string.format('%.0f', number)
end
redis.call('HSET', key, 'next', whole(next), 'run', run, 'episode', whole(episode), 'version', whole(version))
if purpose ~= '' then
  redis.call('HSET', key, 'begins', whole(day_begins), 'ends', whole(day_ends), 'credit:' .. purpose, whole(credit))
end
redis.call('PEXPIRE', key, 691200000)
return answer
