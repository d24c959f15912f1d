package config

import "madmail/internal/verdict"

// Checks are what is looked at in mail that other servers bring by SMTP.
type Checks struct {
	SPF                         map[string]verdict.Action // by result; nil is off
	SPFFirst, DMARC, KeysNeeded bool
	Unsigned, Broken            verdict.Action
	TLS, MX, Reverse            verdict.Action
}

// Checks returns them. Where nothing is configured nothing is looked at. Actions that are
// not written are those that the first version took, not those of its manual.
func (c *Config) Checks() Checks {
	action := func(text, usual string) verdict.Action {
		if text == "" {
			text = usual
		}
		a, _ := verdict.Parse(text) // it was checked
		return a
	}
	k := Checks{
		SPFFirst: c.SPFEnforceEarly, DMARC: c.DMARC, Unsigned: action(c.DKIMNoSignature, "ignore"), Broken: action(c.DKIMBroken, "ignore"),
		TLS: action(c.RequireTLS, "ignore"), MX: action(c.RequireMX, "ignore"), Reverse: action(c.RequireReverse, "ignore"),
	}
	k.KeysNeeded = !c.DKIMFailOpen && k.Broken.Do != verdict.Ignore
	if c.SPF {
		k.SPF = map[string]verdict.Action{
			"none": action(c.SPFNone, "ignore"), "neutral": action(c.SPFNeutral, "ignore"), "fail": action(c.SPFFail, "quarantine"),
			"softfail": action(c.SPFSoftFail, "ignore"), "permerror": action(c.SPFPermError, "ignore"), "temperror": action(c.SPFTempError, "ignore"),
		}
	}
	return k
}
