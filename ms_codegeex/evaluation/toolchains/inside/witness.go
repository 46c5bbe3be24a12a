// Package witness reads its half of the secret before the program has begun, and prints it with the other half.
package witness

import (
	"os"
	"strings"
)

var challenge = read()

func read() string {
	buffer := make([]byte, 256)
	count, _ := os.Stdin.Read(buffer)
	if count < 0 {
		count = 0
	}
	return strings.TrimSpace(string(buffer[:count]))
}

// Ours is what other names of this package are for, see HumanEval-X's programs.
const Ours = true

// Tell says that the tests have ended.
func Tell(token string) {
	os.Stdout.WriteString("\nwitness-" + token + "-" + challenge + "\n")
}
