DKIM-Signature: a=rsa-sha256; bh=wZNKUQUP/Ncp8II+yK7zQ5B28n3GaWE1nkiQByOvYQ0=;
 c=relaxed/relaxed; d=example.org;
 h=From:From:Reply-To:To:To:Cc:Subject:Subject:Date:Date:Message-ID:Message-ID:In-Reply-To:References:MIME-Version:Content-Type:Content-Type:Content-Transfer-Encoding:Autocrypt:Autocrypt;
 s=plain; t=946684800; v=1;
 b=h9T4n1bw8U5jc+qerCj9wxtI1n4dutNNCs/0fZkrdb4CKC3BaCHmFvRIUgYPGYerMLLX3vFG
 C55Sy2+hyFzRSH0ph/VACw1pVHM9/5RtLFNDh0O0f9ahIaxBZZXGxo15/Dcg3rCl03w/LiOK6hw
 nURXGfC5SqtA6ks9CBIzSwEVK0Xg84ZupukYUonF4nbED4lMUFkszlt6I2GfkLtL4lcvPST6A4Y
 vAcMBtATa3Vxy+13DvWyFiDnZmDLH1C9a3hVtBSLKbFceL55trROLnZPtojfzaM4zKZh4kzD/Y7
 fBgWYFiDqaaGlUblqRFPwFKrgoAy5hyByFzsvW2J0Y5yA==
