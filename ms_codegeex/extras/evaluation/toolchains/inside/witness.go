// Package witness reads its half of the secret before the program starts, and prints both halves after the tests. Say
// writes a value's frame, as judging/values.py describes it. What the program itself prints goes to standard error.
package witness

import (
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

var challenge = read()
var ours *os.File

func read() string {
	ours = os.Stdout
	if copied, err := syscall.Dup(1); err == nil {
		syscall.CloseOnExec(copied)
		ours = os.NewFile(uintptr(copied), "values")
		syscall.Dup3(2, 1, 0)
	}
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
	ours.WriteString("\nwitness-" + token + "-" + challenge + "\n")
}

// Say writes a value.
func Say(value interface{}) {
	line := "n"
	if value != nil {
		line = said(reflect.ValueOf(value))
	}
	ours.WriteString(strconv.Itoa(len(line)) + ":" + line)
}

var integer, real = reflect.TypeOf(0), reflect.TypeOf(0.0)
var text, truth = reflect.TypeOf(""), reflect.TypeOf(true)

func said(value reflect.Value) string {
	switch value.Kind() {
	case reflect.Interface:
		if value.IsNil() {
			return "n"
		}
		inner := value.Elem()
		switch kind := inner.Type(); kind {
		case integer, real, text, truth:
		default:
			if inner.Kind() <= reflect.Float64 || inner.Kind() == reflect.String {
				return "o0:" // a literal in an interface has one of these types, and another one is not equal
			}
		}
		return said(inner)
	case reflect.Bool:
		if value.Bool() {
			return "t"
		}
		return "f"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "i" + strconv.FormatInt(value.Int(), 10) + ";"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "i" + strconv.FormatUint(value.Uint(), 10) + ";"
	case reflect.Float32, reflect.Float64:
		return "d" + strconv.FormatFloat(value.Float(), 'g', -1, 64) + ";"
	case reflect.String:
		return "s" + strconv.Itoa(value.Len()) + ":" + value.String()
	case reflect.Slice:
		if value.IsNil() {
			return "n"
		}
		fallthrough
	case reflect.Array:
		items := "[" + strconv.Itoa(value.Len()) + ":"
		for at := 0; at < value.Len(); at++ {
			items += said(value.Index(at))
		}
		return items
	case reflect.Map:
		if value.IsNil() {
			return "n"
		}
		pairs := []string{}
		for _, key := range value.MapKeys() {
			pairs = append(pairs, said(key)+said(value.MapIndex(key)))
		}
		sort.Strings(pairs)
		return "{" + strconv.Itoa(len(pairs)) + ":" + strings.Join(pairs, "")
	}
	return "o0:"
}
