<?php
// Reads cases from standard input and prints what the example's verify says of each.
declare(strict_types=1);
set_error_handler(fn ($level, $message) => throw new ErrorException($message));
require __DIR__ . '/example.php';

$cases = json_decode(file_get_contents('php://stdin'), true, flags: JSON_THROW_ON_ERROR);
$said = fn ($one) => verify($one['secret'], $one['headers'], base64_decode($one['body'], true));
echo json_encode(array_map($said, $cases));
