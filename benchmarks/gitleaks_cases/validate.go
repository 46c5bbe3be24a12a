// Writes the cases of a rule as lines of JSON, where gitleaks checks them.
package utils

import (
	"encoding/json"
	"os"

	"github.com/zricethezav/gitleaks/v8/config"
)

func Validate(rule config.Rule, tps []string, fps []string) *config.Rule {
	dump(rule, "", tps, fps)
	return &rule
}

func ValidateWithPaths(rule config.Rule, tps map[string]string, fps map[string]string) *config.Rule {
	for path, tp := range tps {
		dump(rule, path, []string{tp}, nil)
	}
	for path, fp := range fps {
		dump(rule, path, nil, []string{fp})
	}
	return &rule
}

func dump(rule config.Rule, path string, tps []string, fps []string) {
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	for _, tp := range tps {
		secrets := []string{}
		if rule.Regex != nil {
			for _, groups := range rule.Regex.FindAllStringSubmatch(tp, -1) {
				secret := groups[0]
				if rule.SecretGroup > 0 {
					secret = groups[rule.SecretGroup]
				} else {
					for _, g := range groups[1:] {
						if g != "" {
							secret = g
							break
						}
					}
				}
				secrets = append(secrets, secret)
			}
		}
		_ = e.Encode(map[string]any{"rule": rule.RuleID, "path": path, "text": tp, "secrets": secrets})
	}
	for _, fp := range fps {
		_ = e.Encode(map[string]any{"rule": rule.RuleID, "path": path, "text": fp, "secrets": []string{}, "false": true})
	}
}
