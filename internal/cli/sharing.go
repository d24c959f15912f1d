package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

func (s *shell) sharing() *cobra.Command {
	return s.group("sharing", "Manage contact links: short names that show how to reach somebody",
		"  madmail sharing list\n  madmail sharing create alice 'https://i.delta.chat/#...' \"Alice\"\n  madmail sharing reserve support",
		s.sharingList(), s.sharingCreate(), s.sharingReserve(), s.sharingRemove(), s.sharingEdit())
}

func (s *shell) sharingList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the contact links, the latest first", Args: cobra.NoArgs, Example: "  madmail sharing list --json",
		RunE: func(*cobra.Command, []string) error {
			var r ops.ContactLinks
			if err := s.call("sharing.list", nil, &r); err != nil {
				return err
			}
			return s.result("sharing list", "", r, func(w io.Writer) {
				fmt.Fprintln(w, "SLUG\tNAME\tURL\tCREATED AT")
				for _, l := range r.Entries {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", oneLine(l.Slug), oneLine(l.Name), oneLine(l.URL), l.CreatedAt)
				}
			})
		}}
}

// sharingDone prints a contact link after a change.
func (s *shell) sharingDone(command, op string, p any, word string) error {
	var l ops.ContactLink
	if err := s.call(op, p, &l); err != nil {
		return err
	}
	m := fmt.Sprintf("Successfully %s link: %s", word, l.Slug)
	return s.result(command, m, l, func(w io.Writer) { fmt.Fprintln(w, m) })
}

// sharingChange reads SLUG URL [NAME].
func sharingChange(args []string) ops.ContactChange {
	c := ops.ContactChange{Slug: args[0], URL: &args[1]}
	if len(args) > 2 && args[2] != "" {
		c.Name = &args[2]
	}
	return c
}

func (s *shell) sharingCreate() *cobra.Command {
	return &cobra.Command{Use: "create SLUG URL [NAME]", Short: "Make a contact link from an invite link of Delta Chat", Args: cobra.RangeArgs(2, 3),
		Long:    "Make a contact link from an invite link of Delta Chat. SLUG has 3 to 64 letters and digits, with hyphens between them, and is no page of the server.\nURL is https://i.delta.chat/#..., or openpgp4fpr:..., as \"sharing list\" shows it.",
		Example: "  madmail sharing create alice 'https://i.delta.chat/#0123456789ABCDEF0123456789ABCDEF01234567&a=alice%40example.org' \"Alice\"",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.sharingDone("sharing create", "sharing.create", sharingChange(args), "created")
		}}
}

func (s *shell) sharingReserve() *cobra.Command {
	return &cobra.Command{Use: "reserve SLUG", Short: "Keep a slug from visitors; nothing is shown there", Args: cobra.ExactArgs(1), Example: "  madmail sharing reserve support",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.sharingDone("sharing reserve", "sharing.reserve", ops.ContactSlug{Slug: args[0]}, "created")
		}}
}

func (s *shell) sharingRemove() *cobra.Command {
	return &cobra.Command{Use: "remove SLUG", Aliases: []string{"delete"}, Short: "Remove a contact link", Args: cobra.ExactArgs(1), Example: "  madmail sharing remove alice",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.sharingDone("sharing remove", "sharing.remove", ops.ContactSlug{Slug: args[0]}, "removed")
		}}
}

func (s *shell) sharingEdit() *cobra.Command {
	return &cobra.Command{Use: "edit SLUG URL [NAME]", Short: "Give a contact link another invite, and another name if there is one", Args: cobra.RangeArgs(2, 3),
		Example: "  madmail sharing edit alice 'https://i.delta.chat/#0123456789ABCDEF0123456789ABCDEF01234567&a=alice%40example.org'",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.sharingDone("sharing edit", "sharing.edit", sharingChange(args), "updated")
		}}
}
