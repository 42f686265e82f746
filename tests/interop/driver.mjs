// Reads cases from standard input and prints what the example's verify says of each.
import { readFileSync } from "node:fs";
import { verify } from "./example.mjs";

const cases = JSON.parse(readFileSync(0, "utf8"));
const said = cases.map((one) => verify(one.secret, one.headers, Buffer.from(one.body, "base64")));
console.log(JSON.stringify(said));
