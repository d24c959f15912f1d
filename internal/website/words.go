package website

// words are the page's texts by language.
var words = map[string]map[string]string{
	"en": {
		"title": "A relay for Delta Chat", "what": "This server carries messages for Delta Chat, an end-to-end encrypted messenger. It sees neither their content nor your contacts' names, and it keeps no log.",
		"join": "Join", "scan": "Open the link on a device with Delta Chat, or scan the code.", "make": "Make an account", "token": "Invitation token, if you have one",
		"closed": "Registration is closed. You need an invitation.", "yours": "Your account", "once": "This is shown once. Open the link or scan the code in Delta Chat.",
		"limits": "Limits", "quota": "Storage per account", "message": "Largest message", "settings": "Server settings",
		"days": "Messages are removed when they are %d days old.", "hours": "Messages are removed when they are %d hours old.",
		"proxy": "Where mail is blocked", "through": "Open the link in Delta Chat or scan the code: it reaches this server by a proxy, and nothing else.",
	},
	"fa": {
		"title": "رله\u200cای برای دلتا چت", "what": "این سرور پیام\u200cهای دلتا چت را جابه\u200cجا می\u200cکند؛ پیام\u200cرسانی با رمزنگاری سرتاسری. نه محتوای پیام\u200cها را می\u200cبیند و نه نام مخاطبان شما را، و هیچ گزارشی نگه نمی\u200cدارد.",
		"join": "پیوستن", "scan": "پیوند را روی دستگاهی با دلتا چت باز کنید یا کد را اسکن کنید.", "make": "ساختن حساب", "token": "کد دعوت، اگر دارید",
		"closed": "ثبت\u200cنام بسته است. به دعوت نیاز دارید.", "yours": "حساب شما", "once": "این فقط یک بار نشان داده می\u200cشود. پیوند را باز کنید یا کد را در دلتا چت اسکن کنید.",
		"limits": "محدودیت\u200cها", "quota": "فضای هر حساب", "message": "بزرگ\u200cترین پیام", "settings": "تنظیمات سرور",
		"days": "پیام\u200cها پس از %d روز پاک می\u200cشوند.", "hours": "پیام\u200cها پس از %d ساعت پاک می\u200cشوند.",
		"proxy": "اگر ایمیل مسدود است", "through": "پیوند را در دلتا چت باز کنید یا کد را اسکن کنید: از راه پروکسی به همین سرور می\u200cرسد و نه جای دیگر.",
	},
	"ru": {
		"title": "Релей для Delta Chat", "what": "Этот сервер передаёт сообщения Delta Chat — мессенджера со сквозным шифрованием. Он не видит ни их содержания, ни имён ваших собеседников и не ведёт журналов.",
		"join": "Присоединиться", "scan": "Откройте ссылку на устройстве с Delta Chat или отсканируйте код.", "make": "Создать аккаунт", "token": "Код приглашения, если он есть",
		"closed": "Регистрация закрыта. Нужно приглашение.", "yours": "Ваш аккаунт", "once": "Это показывается один раз. Откройте ссылку или отсканируйте код в Delta Chat.",
		"limits": "Ограничения", "quota": "Место на аккаунт", "message": "Самое большое сообщение", "settings": "Настройки сервера",
		"days": "Срок хранения сообщений (в днях): %d.", "hours": "Срок хранения сообщений (в часах): %d.",
		"proxy": "Если почта заблокирована", "through": "Откройте ссылку в Delta Chat или отсканируйте код: прокси ведёт к этому серверу и никуда больше.",
	},
	"es": {
		"title": "Un relé para Delta Chat", "what": "Este servidor transporta mensajes de Delta Chat, una mensajería con cifrado de extremo a extremo. No ve su contenido ni los nombres de tus contactos, y no guarda registros.",
		"join": "Unirse", "scan": "Abre el enlace en un dispositivo con Delta Chat o escanea el código.", "make": "Crear una cuenta", "token": "Código de invitación, si tienes uno",
		"closed": "El registro está cerrado. Necesitas una invitación.", "yours": "Tu cuenta", "once": "Esto se muestra una sola vez. Abre el enlace o escanea el código en Delta Chat.",
		"limits": "Límites", "quota": "Espacio por cuenta", "message": "Mensaje más grande", "settings": "Ajustes del servidor",
		"days": "Los mensajes se borran cuando pasan estos días: %d.", "hours": "Los mensajes se borran cuando pasan estas horas: %d.",
		"proxy": "Si el correo está bloqueado", "through": "Abre el enlace en Delta Chat o escanea el código: el proxy llega a este servidor y a ningún otro sitio.",
	},
}
