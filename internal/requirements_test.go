package internal

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// requirements are the statements that operators were promised, by number, in short.
// Each has at least one test with its number in its name; more names the others that
// show a part of it.
var requirements = map[int]struct {
	text string
	more []string
}{
	1: {"what listens is what is configured", nil}, 2: {"which listeners are on", nil}, 3: {"listener-ports tells what is bound", nil},
	4: {"certificates for development", nil}, 5: {"ports below 1024", nil}, 6: {"the file of the admin token", []string{"TestTheTokenFile"}},
	7: {"it is printed once, when there is a log", nil}, 8: {"commands read the same file", nil},
	9: {"disabled removes the admin API", nil}, 10: {"a wrong token is refused", []string{"TestTenFailuresShutAnAddressOut"}},
	11: {"memory is the truth about quota", []string{"TestAnAccountFillsToTheByte"}}, 12: {"a start counts what is there", []string{"TestWhatChangedSinceTheStopIsMeasured"}},
	13: {"a running server notices, too", nil}, 14: {"migrations are versioned by file name", nil}, 15: {"an edited one is noticed", nil},
	16: {"reset-db and a restart", nil}, 17: {"without the page, 503 and the target", []string{"TestAProgramWithoutThePageSaysHowToBuildIt"}},
	18: {"the page is built in", []string{"TestThePageWorksBelowAPrefix"}}, 19: {"an IP literal is a domain", []string{"TestDomainsAreOursInEverySpelling"}},
	20: {"length and characters", nil}, 21: {"logs of IMAP and SMTP", nil}, 22: {"operators make accounts always", nil},
	23: {"the switch of TURN", nil}, 24: {"METADATA tells of TURN", []string{"TestTwoCallersMeetAtTheirRelays"}}, 25: {"scripts for TURN", nil},
	26: {"silence is decided first", nil}, 27: {"the table of decisions", nil}, 28: {"debug speaks always", nil},
	29: {"settings by SQL", nil}, 30: {"last logins by SQL", nil}, 31: {"other servers by SQL", nil}, 32: {"blocked names by SQL", nil}, 33: {"tokens by SQL", nil},
	34: {"normal production is silent", []string{"TestMarkedNamesAndTextsAreNowhere"}}, 35: {"debug and info are reasonable", nil},
	36: {"trace shows frames and statements", nil}, 37: {"logging changes while it runs", []string{"TestFilesAreReopened"}}, 38: {"a disabled record costs nothing", nil},
}

// failures are the items of the list of what went wrong before, with the tests that keep
// them away.
var failures = map[int][]string{
	1: {"TestNothingIsMissedWhileListing", "TestMaildirIsAStore"}, 2: {"TestMessagesAreSignedOncePerTry", "TestWhatIsSignedVerifies", "TestStrictServersProveTheirOrigin"},
	3: {"TestTheOrderOfWays", "TestLookupMX"}, 4: {"TestAServerThatIsAwayForAQuarterOfAnHourGetsItsMail", "TestAMessageIsGivenUpInTimeWithOneNotification", "TestWhatCannotBeReadIsSetAside"},
	5: {"TestAHundredThousandMessagesKeepTheirUIDs", "TestAServerTakesOverTheFirstVersionByItself", "TestMuchMailOfTheFirstVersionWaitsForTheOperator"},
	6: {"TestAFullAccountReceivesAgainAfterDeletion"},
	7: {"TestABanReachesTheRunningServer"}, 8: {"TestAnAccountOfTheCommandLineIsNotTakenOver", "TestCreatingNeverOverwrites", "TestALoginNeverTakesOverAnAccountThatAnOperatorMakes"},
	9: {"TestClosedRegistrationIsClosed", "TestJustInTimeFollowsRegistrationUntilItIsNamed"}, 10: {"TestIdleSessionsSurviveAReload", "TestABadReloadChangesNothing"},
	11: {"TestUninstallKeepsTheData"},
	12: {"TestIdleSessionsSurviveAReload", "TestScripts"}, 13: {"TestLastLoginsAreWrittenOncePerHour"}, 14: {"TestAllFormsOfThePredecessorsVerify"},
	15: {"TestARewriteNeitherResurrectsNorUndoes"}, 16: {"TestAnOldPasswordEndsWithTheCommand", "TestAVerifiedPasswordIsRememberedUntilTheRowChanges"},
	17: {"TestREQ20ThePolicyJudgesNamesAndPasswords"}, 18: {"TestTheLoginTable"}, 19: {"TestOtherSpellingsInTheTablesAreOneAccount"},
	20: {"TestDomainsAreOursInEverySpelling"}, 21: {"TestDomainsAreOursInEverySpelling", "TestTheLoginTable"},
	22: {"TestRefusalsSlowDown", "TestTooManySessionsOfOneAddressAreTurnedAway"}, 23: {"TestRemoving", "TestDeletingLeavesNoRow"},
	24: {"TestNamesThatUsersChooseCanSend"}, 25: {"TestALostIndexIsRebuiltUnderAnotherUIDVALIDITY", "TestMaildirIsAStore"}, 26: {"TestCostOfADeliveryDoesNotGrowWithTheMailbox"},
	27: {"TestMaildirIsAStore"}, 28: {"TestLayoutOfEarlierServersIsRead"}, 29: {"TestBlobsThatNobodyLinksToGo"},
	30: {"TestRetentionOpensOnlyWhatMayBeOld", "TestPurgeSeenOpensOnlyWhatChanged", "TestPurges"}, 31: {"TestWhoseRetentionCounts"},
	32: {"TestAccountsWithoutMailTakeNoMemory", "TestTheThrottlesTablesAreBounded"}, 33: {"TestWhatChangedSinceTheStopIsMeasured", "TestREQ12AStartCountsWhatIsThere"},
	34: {"TestWhatIsDottedIsUndotted", "TestASilentServerEndsWithTheContext", "TestARequestIsWhatRelaysExpect", "TestOneLetterForAllRecipientsOfAServer"},
	35: {"TestOneDeadServerDelaysNoOther", "TestADestinationHasTwoInFlight"}, 36: {"TestCertificatesAreChecked", "TestWhatTLSIsDemanded", "TestAWrongCertificateIsNeverSentTo"},
	37: {"TestAnswers", "TestMailWithoutTLS", "TestForeignMailIsExaminedAsItCame"}, 38: {"TestAServerThatIsAwayForAQuarterOfAnHourGetsItsMail", "TestListShowsWhatIsNotFlushedYet"},
	39: {"TestWhoIsDealtWith", "TestTransportsByDomain"}, 40: {"TestEveryDoorAsksTheSameGate", "TestVectorsOfTheOfficialNetwork"},
	41: {"TestOnlyOurDomainsAreTaken", "TestNamesThatUsersChooseCanSend", "TestAMessageReachesEveryRecipientThatExists", "TestNothingAcceptedIsLostWhereverTheDiskFails"},
	42: {"TestRounds", "TestABoxThatIsTold", "TestABoxThatCannotBeTold"}, 43: {"TestOverridesOfAnySpellingCount", "TestEndpoints"},
	44: {"TestEveryKeyTakesAValue", "TestTheDocumentsNameEveryKey"}, 45: {"TestBadFilesSayWhatIsWrong"}, 46: {"TestSizesSayWhereTheyComeFrom", "TestAFreshDatabaseHoldsOnlyThePushMode"},
	47: {"TestAStateDirectoryOnTheCommandLineCounts"}, 48: {"TestREQ09DisabledRemovesTheAdminAPI"}, 49: {"TestTheTokenFile"},
	50: {"TestREQ07TheTokenIsPrintedOnceIfAnythingIsLogged"}, 51: {"TestREQ27TheDecisionTable", "TestREQ35DebugWithInfoIsReasonable"},
	52: {"TestAStoredPortMovesItsListener", "TestMailOnThePortOfHTTPS"}, 53: {"TestThePathOfTheAdminAPIChangesAtOnce"},
	54: {"TestReadinessIsToldWhenEveryPortAnswers", "TestABusyPortBindsNothing"}, 55: {"TestTheSecondIsToldWhoRuns"},
	56: {"TestREQ31OtherServersCanBeInspected"}, 57: {"TestREQ03ListenerPortsTellWhatIsBound"},
	58: {"TestADatabaseOfTheSecondPredecessorIsAdopted", "TestTimesOfAllPredecessorsAreRead"}, 59: {"TestANewerDatabaseIsRefusedUnlessItOnlyAdds"},
	60: {"TestREQ23CallsAreAnnouncedAndSwitched", "TestTwoCallersMeetAtTheirRelays", "TestFilesOfEarlierVersionsAreRead"}, 61: {"TestInstallPutsEverythingInItsPlaceAndTwiceIsOnce"},
	62: {"TestRealtimeChannelsAreAnnouncedAndSwitched"}, 63: {"TestFailuresAreTriedAgainForAWhile", "TestRestartInTheMiddle", "TestManyMessagesAreOneRequest"},
	64: {"TestMailOnThePortOfHTTPS", "TestSplitter"}, 65: {"TestARenewedPairIsTaken", "TestRootLeavesFilesToTheServer", "TestASelfSignedPairServesTheNamesOfThisHost"},
	66: {"TestMetricsOfARealServer", "TestTheTable"}, 67: {"TestNoCommandIsAStub"}, 68: {"TestInJSONThereIsTheEnvelopeAndNothingElse"}, 69: {"TestStatusTellsWhoIsConnected"}, 70: {"TestNothingIsAskedOfPrograms"},
	71: {"TestREQ48NoOldBinaryStays"}, 72: {"TestAnUpgradeSwitchesAndTheOldOneStays", "TestNothingChangesForAProgramThatIsNotOurs", "TestUpgradeLatest"},
	73: {"TestAnEditChangesOneLine"}, 74: {"TestSitesThatBrokeOnTheWay", "TestLiteralBracesSurvive", "TestAnOperatorsOwnSite"},
	75: {"TestInstallPutsEverythingInItsPlaceAndTwiceIsOnce", "TestInstallRefusesWhatCannotWork"},
	76: {"TestWebhooksTellOfAccounts", "TestEventsAreSignedAndSaidOnce", "TestTransportsByDomain", "TestPurges"}, // wishes
}

// tests returns the names of all test functions of the module.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	have := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	for _, root := range []string{".", "../test", "../dist"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, "_test.go") {
				return err
			}
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for _, m := range function.FindAllSubmatch(text, -1) {
				have[string(m[1])] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return have
}

// TestEveryRequirementHasItsTest: REQ-01 to REQ-38, and the list of failures.
func TestEveryRequirementHasItsTest(t *testing.T) {
	have := tests(t)
	number := regexp.MustCompile(`^TestREQ(\d\d)\D`)
	shown := make(map[int]bool)
	for name := range have {
		if m := number.FindStringSubmatch(name); m != nil {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			shown[n] = true
		} else if strings.HasPrefix(name, "TestREQ") {
			t.Errorf("%s: REQ is followed by two digits and a name", name)
		}
	}
	for n := 1; n <= 38; n++ {
		r, listed := requirements[n]
		if !listed || r.text == "" {
			t.Errorf("REQ-%02d is not in the table", n)
		}
		if !shown[n] {
			t.Errorf("REQ-%02d (%s) has no test of its name", n, r.text)
		}
		for _, name := range r.more {
			if !have[name] {
				t.Errorf("REQ-%02d is said to be shown by %s, which is not there", n, name)
			}
		}
	}
	for n := 1; n <= 76; n++ {
		if _, listed := failures[n]; !listed {
			t.Errorf("failure %d is not in the table", n)
		}
	}
	for n, names := range failures {
		if len(names) == 0 {
			t.Errorf("failure %d has no test", n)
		}
		for _, name := range names {
			if !have[name] {
				t.Errorf("failure %d is said to be kept away by %s, which is not there", n, name)
			}
		}
	}
}
