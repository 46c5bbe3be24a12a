// Package witness reads its half of the secret before the program starts, and prints both halves after the tests.
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

// Ours is imported under predeclared names, so that an answer cannot redeclare these (see programs.py).
const Ours = true

// Tell prints the witness after the tests.
func Tell(token string) {
	os.Stdout.WriteString("\nwitness-" + token + "-" + challenge + "\n")
}
