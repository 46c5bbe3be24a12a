// Draws a text that a pattern matches, from a seeded generator.
package secrets

import (
	"math/rand"
	"regexp/syntax"
	"strings"
)

var r = rand.New(rand.NewSource(1))

func NewSecret(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		panic(err)
	}
	var b strings.Builder
	write(&b, re)
	return b.String()
}

func write(b *strings.Builder, re *syntax.Regexp) {
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			b.WriteRune(c)
		}
	case syntax.OpCharClass:
		var all []rune
		for i := 0; i < len(re.Rune); i += 2 {
			for c := re.Rune[i]; c <= re.Rune[i+1] && c < 127; c++ {
				if c >= 32 {
					all = append(all, c)
				}
			}
		}
		b.WriteRune(all[r.Intn(len(all))])
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteRune(rune(33 + r.Intn(94)))
	case syntax.OpCapture, syntax.OpConcat:
		for _, s := range re.Sub {
			write(b, s)
		}
	case syntax.OpAlternate:
		write(b, re.Sub[r.Intn(len(re.Sub))])
	case syntax.OpRepeat, syntax.OpStar, syntax.OpPlus, syntax.OpQuest:
		lo, hi := re.Min, re.Max
		switch re.Op {
		case syntax.OpStar:
			lo, hi = 0, 8
		case syntax.OpPlus:
			lo, hi = 1, 8
		case syntax.OpQuest:
			lo, hi = 0, 1
		}
		if hi < 0 {
			hi = lo + 8
		}
		for n := lo + r.Intn(hi-lo+1); n > 0; n-- {
			write(b, re.Sub[0])
		}
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary:
	default:
		panic(re.Op.String())
	}
}
