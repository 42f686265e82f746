# Reads cases from standard input and prints what the example's verify says of each.
require "json"
require_relative "example"

cases = JSON.parse($stdin.read)
puts JSON.generate(cases.map { |one| verify(one["secret"], one["headers"], one["body"].unpack1("m0")) })
