// Reads cases from standard input and prints what the example's Verify says of each.
package main

import (
	"encoding/json"
	"os"

	"example/webhook"
)

func main() {
	var cases []struct {
		Secret  string
		Headers map[string]string
		Body    []byte
	}
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	said := []bool{}
	for _, one := range cases {
		header := func(name string) string { return one.Headers[name] }
		said = append(said, webhook.Verify(one.Secret, header, one.Body))
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}
