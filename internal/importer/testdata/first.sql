--
-- PostgreSQL database dump
--

\restrict v61je9BWuaJR49ZLs8omX9vBtDNB8gPzQ6jp7E2m98ccNUJHyiif4U30o2n56wm

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Data for Name: blocked_users; Type: TABLE DATA; Schema: public; Owner: maddy
--

INSERT INTO public.blocked_users (username, reason, blocked_at) VALUES ('mallory@example.org', 'it''s; spam
); INSERT INTO x', '2025-03-04 07:08:09.123456+00');


INSERT INTO public.exchangers (name, url, enabled, poll_interval, last_poll_at, created_at, updated_at) VALUES ('ex', 'http://192.0.2.5/mxdeliv', false, 120, '0001-01-01 00:00:00+00', '2026-11-28 20:47:37.366217+00', '2026-11-28 20:47:37.366217+00');


INSERT INTO public.extkeys (id, uid, refs) VALUES ('0123456789abcdef0123456789abcdef', 1, 1);


INSERT INTO public.federation_rules (id, domain, created_at) VALUES (1, 'bad.example', 1700000000);


INSERT INTO public.flags (mboxid, msgid, flag) VALUES (21, 2, '\Seen');
INSERT INTO public.flags (mboxid, msgid, flag) VALUES (21, 2, '$forwarded');
INSERT INTO public.flags (mboxid, msgid, flag) VALUES (21, 2, 'it''s');


INSERT INTO public.mboxes (id, uid, name, sub, mark, msgsizelimit, uidnext, uidvalidity, specialuse, msgscount) VALUES (2, 1, 'Sent', 1, 0, NULL, 1, 2871409847, '\Sent', 0);
INSERT INTO public.mboxes (id, uid, name, sub, mark, msgsizelimit, uidnext, uidvalidity, specialuse, msgscount) VALUES (20, 1, 'Entwürfe', 1, 0, NULL, 1, 45825731, NULL, 0);
INSERT INTO public.mboxes (id, uid, name, sub, mark, msgsizelimit, uidnext, uidvalidity, specialuse, msgscount) VALUES (21, 1, 'Entwürfe.テスト', 1, 0, NULL, 3, 3594623774, NULL, 1);
INSERT INTO public.mboxes (id, uid, name, sub, mark, msgsizelimit, uidnext, uidvalidity, specialuse, msgscount) VALUES (7, 2, 'INBOX', 1, 0, NULL, 3, 2756290578, NULL, 0);
INSERT INTO public.mboxes (id, uid, name, sub, mark, msgsizelimit, uidnext, uidvalidity, specialuse, msgscount) VALUES (1, 1, 'INBOX', 1, 0, NULL, 4, 517160717, NULL, 0);


INSERT INTO public.msgs (mboxid, msgid, date, bodylen, mark, bodystructure, cachedheader, extbodykey, seen, compressalgo, recent) VALUES (21, 2, 1700000007, 19, 0, '\x7b224d494d4554797065223a2274657874227d', '\x7b7d', '0123456789abcdef0123456789abcdef', 1, NULL, 1);


INSERT INTO public.passwords (key, value) VALUES ('alice@example.org', 'bcrypt:$2a$04$Y1XIwTdl536DtpWnGoL.gOT46P7HzptoG4V0CenQWRanrxcGqr6g6');
INSERT INTO public.passwords (key, value) VALUES ('bob@example.org', 'bcrypt:$2a$04$L.IOKIY6ecji40amlE7r8urv.qjhQLzwS4uWXAz..r7RsO5cnLLBC');
INSERT INTO public.passwords (key, value) VALUES ('__REGISTRATION_OPEN__', 'false');


INSERT INTO public.quota (username, max_storage, created_at, first_login_at, last_login_at, used_token) VALUES ('alice@example.org', 50000000, 1600000000, 1600000001, 1600000002, '');


INSERT INTO public.registration_tokens (token, max_uses, used_count, comment, created_at, expires_at) VALUES ('t0ken', 3, 1, 'back\slash', '2026-11-28 20:47:37.362731+00', '2031-03-04 07:08:09+00');


INSERT INTO public.schema_version (version) VALUES (6);


INSERT INTO public.users (id, username, msgsizelimit, inboxid) VALUES (1, 'alice@example.org', NULL, 1);
INSERT INTO public.users (id, username, msgsizelimit, inboxid) VALUES (2, 'bob@example.org', NULL, 7);

SELECT pg_catalog.setval('public.mboxes_id_seq', 22, true);


INSERT INTO public.dns_overrides (lookup_key, target_host, comment, created_at, updated_at) VALUES ('peer.example', '192.0.2.7', NULL, NULL, NULL);
INSERT INTO public.message_stats (name, count) VALUES ('sent_messages', 17);

\unrestrict v61je9BWuaJR49ZLs8omX9vBtDNB8gPzQ6jp7E2m98ccNUJHyiif4U30o2n56wm
