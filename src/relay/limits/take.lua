-- One stage: every key is counted when all of them allow it, else none.
-- KEYS: one for each rule. ARGV: for each its limit and its window in microseconds.
-- Returns whether it was counted, the time, and for each key what remains, when it resets, how long to wait.

local now = time()
local kinds, seen, allowed = {}, {}, true
for place, key in ipairs(KEYS) do
    local most = tonumber(ARGV[place * 2 - 1])
    kinds[place] = kind_of(most)
    seen[place] = kinds[place].look(key, most, tonumber(ARGV[place * 2]), now)
    if kinds[place].wait(seen[place]) > 0 then
        allowed = false
    end
end

local answer = {allowed and 1 or 0, now}
for place = 1, #KEYS do
    if allowed then
        kinds[place].count(seen[place])
    end
    local left, reset, wait = kinds[place].quota(seen[place])
    answer[#answer + 1] = left
    answer[#answer + 1] = reset
    answer[#answer + 1] = wait
end
return answer
