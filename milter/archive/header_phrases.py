r"""What header sections of mail say again and again: the dictionary of `header_store`.

Promises: never changed once released, only followed by another of a higher format.  The likeliest
phrases come last, where references to them are short.  They are written as in the stored text
(JSON: \n and \t stand for line end and tab).

Does not: hold anything about anybody: only what programs write by themselves.
"""

from __future__ import annotations

_PHRASES = r"""
["X-Report-Abuse"," Please report abuse here: https://"],["X-Abuse"," abuse@"],
["X-CSA-Complaints"," csa-complaints@eco.de"],["X-Campaign"," "],["X-CampaignID"," "],
["X-Mailer-Info"," "],["X-SG-EID"," "],["X-SG-ID"," "],["X-SES-Outgoing"," 2026.01.01-54.240."],
["X-PM-Message-Id"," "],["X-Mailgun-Sid"," "],["X-Mailgun-Sending-Ip"," "],
["X-Entity-Ref-ID"," "],["Feedback-ID"," ::1.eu-west-1.:AmazonSES"],
["X-Cron-Env"," <SHELL=/bin/sh>"],["X-Cron-Env"," <HOME=/root>"],
["X-Cron-Env"," <PATH=/usr/bin:/bin>"],["X-Cron-Env"," <LOGNAME=root>"],
["X-PHP-Originating-Script"," 0:class-phpmailer.php"],["X-PHP-Script"," /index.php for "],
["X-Mailer"," PHPMailer 6.8.0 (https://github.com/PHPMailer/PHPMailer)"],["X-Gitlab-"," "],
["X-GitHub-Reason"," subscribed"],["X-GitHub-Sender"," "],["X-GitHub-Recipient"," "],
["X-GitHub-Recipient-Address"," "],["X-BeenThere"," "],["X-Mailman-Version"," 2.1.39"],
["X-Mailman-Version"," 3.3.8"],["X-Mailman-Rule-Hits"," member-moderation; header-match-"],
["X-Mailman-Rule-Misses"," dmarc-mitigation; no-senders; approved; emergency; loop; banned-address
; header-match-; implicit-dest; max-recipients; max-size; news-moderation; no-subject; suspicious-
header"],["Errors-To"," -bounces@"],["X-Loop"," "],["Mailing-List"," list ; contact "],
["Delivered-To"," mailing list "],["X-Spam-Checker-Version"," SpamAssassin 4.0.1 (2024-03-25) on "
],["X-Spam-Report"," \n\t*  0.0 "],["X-Spam-Flag"," YES"],["X-Spam-Level"," **********"],
["X-Spam-Bar"," /"],["X-Spam-Score"," -1.9"],["X-Spam-Score"," 0.0"],["X-Ham-Report"," "],
["X-Rspamd-Server"," "],["X-Rspamd-Queue-Id"," "],["X-Rspamd-Action"," no action"],
["X-Rspamd-Pre-Result"," action=no action;\n\tmodule=replies;\n\tMessage is reply to one we origin
ated"],["X-Spamd-Result"," default: False [-3.10 / 15.00];\n\tBAYES_HAM(-3.00)[99.99%];\n\tMIME_GO
OD(-0.10)[text/plain];\n\tARC_NA(0.00)[];\n\tRCVD_TLS_ALL(0.00)[];\n\tFROM_HAS_DN(0.00)[];\n\tTO_D
N_SOME(0.00)[];\n\tRCPT_COUNT_ONE(0.00)[1];\n\tFROM_EQ_ENVFROM(0.00)[];\n\tMIME_TRACE(0.00)[0:+];
\n\tMID_RHS_MATCH_FROM(0.00)[];\n\tDKIM_TRACE(0.00)[:+];\n\tR_SPF_ALLOW(-0.20)[+ip4:];\n\tR_DKIM_A
LLOW(-0.20)[:s=];\n\tDMARC_POLICY_ALLOW(-0.50)[,none]"],["X-Amavis-Alert"," BAD HEADER SECTION"],
["X-Quarantine-ID"," <"],["X-Virus-Scanned"," clamav-milter 1.0.7 at "],
["X-Virus-Status"," Clean"],["X-Virus-Scanned"," Debian amavis at "],
["X-Virus-Scanned"," amavisd-new at "],["X-IronPort-AV"," E=Sophos;i=\"6.08,\"; \n   d=\"scan'208,
217\";a=\""],["X-IronPort-Anti-Spam-Filtered"," true"],["X-IronPort-Anti-Spam-Result"," A"],
["X-CSE-ConnectionGUID"," "],["X-CSE-MsgGUID"," "],
["X-Amp-Result"," SKIPPED(no attachment in message)"],["X-Proofpoint-GUID"," "],
["X-Proofpoint-ORIG-GUID"," "],["X-Proofpoint-Virus-Version"," vendor=baseguard\n engine=ICAP:2.0.
293,Aquarius:18.0.1039,Hydra:6.0.680,FMLib:17.12.28\n definitions="],
["X-Proofpoint-Spam-Details"," rule=notspam policy=default score=0 adultscore=0 suspectscore=0 mal
warescore=0 bulkscore=0 phishscore=0 clxscore=1015 priorityscore=1501 lowpriorityscore=0 spamscore
=0 impostorscore=0 mlxscore=0 mlxlogscore=999 classifier=spam adjust=0 reason=mlx scancount=1 engi
ne="],["X-Mimecast-Spam-Score"," 0"],["X-Mimecast-Originator"," "],["X-Mimecast-MFC-PROC-ID"," "],
["X-MC-Unique"," -1"],["X-MailScanner-ID"," "],["X-MailScanner"," Found to be clean"],
["X-MailScanner-From"," "],["X-Barracuda-Connect"," "],["X-Barracuda-Spam-Score"," 0.00"],
["X-Barracuda-Start-Time"," "],["X-Google-Smtp-Source"," A"],["X-Gm-Message-State"," A"],
["X-Gm-Gg"," ASbGnc"],["X-Google-DKIM-Signature"," v=1; a=rsa-sha256; c=relaxed/relaxed;\n
        d=1e100.net; s=20230601; t=; x=;\n        h=to:subject:message-id:date:from:in-reply-to:re
ferences:mime-version\n         :x-gm-message-state:from:to:cc:subject:date:message-id:reply-to;\n
        bh=;\n        b="],["X-Received"," by 2002:a05:6402: with SMTP id -"],
["Received"," by mail-wm1-f.google.com with SMTP id -so.1\n        for <>; Mon, 01 Jan 2026 00:00:
00 -0800 (PST)"],["X-MS-Exchange-Transport-CrossTenantHeadersStamped"," "],
["X-MS-Exchange-CrossTenant-UserPrincipalName"," "],
["X-MS-Exchange-CrossTenant-MailboxType"," HOSTED"],["X-MS-Exchange-CrossTenant-Id"," "],
["X-MS-Exchange-CrossTenant-FromEntityHeader"," Hosted"],
["X-MS-Exchange-CrossTenant-OriginalArrivalTime"," "],
["X-MS-Exchange-CrossTenant-Network-Message-Id"," "],
["X-MS-Exchange-CrossTenant-AuthSource"," .eurprd04.prod.outlook.com"],
["X-MS-Exchange-CrossTenant-AuthAs"," Internal"],["X-OriginatorOrg"," "],
["X-MS-Exchange-AntiSpam-MessageData-0"," "],
["X-MS-Exchange-AntiSpam-MessageData-ChunkCount"," 1"],
["X-Forefront-Antispam-Report"," CIP:255.255.255.255;CTRY:;LANG:en;SCL:1;SRV:;IPV:NLI;SFV:NSPM;H:.
eurprd04.prod.outlook.com;PTR:;CAT:NONE;SFS:(13230040)(366016)(376014)(1800799024)(38070700018);DI
R:OUT;SFP:1101;"],["X-Microsoft-Antispam-Message-Info"," "],
["X-Microsoft-Antispam"," BCL:0;ARA:13230040|366016|376014|1800799024|38070700018;"],
["X-MS-Exchange-SenderADCheck"," 1"],["X-LD-Processed"," ,ExtAddr"],
["X-MS-Office365-Filtering-Correlation-Id"," "],["X-MS-TrafficTypeDiagnostic"," :EE_|:EE_"],
["X-MS-PublicTrafficType"," Email"],["x-ms-exchange-messagesentrepresentingtype"," 1"],
["x-ms-exchange-senderadcheck"," 1"],["x-microsoft-antispam"," BCL:0;"],
["X-MS-TNEF-Correlator"," "],["X-MS-Has-Attach"," yes"],["X-MS-Has-Attach"," "],
["x-originating-ip"," [10.0.0."],["Accept-Language"," de-DE, en-US"],
["Accept-Language"," en-US, en-US"],["Content-Language"," de-DE"],["Content-Language"," en-US"],
["Thread-Topic"," "],["Thread-Index"," AQH"],["Thread-Index"," Ad"],
["X-MimeOLE"," Produced By Microsoft MimeOLE V6.00.2900.2180"],["X-MSMail-Priority"," Normal"],
["X-Priority"," 3 (Normal)"],["X-Priority"," 3"],["Importance"," high"],["Importance"," Normal"],
["Sensitivity"," Private"],["Priority"," urgent"],["X-Mailer"," Microsoft Outlook 16.0"],
["X-Mailer"," Apple Mail (2.3774.600.62)"],["X-Mailer"," iPhone Mail (21G93)"],
["X-Mailer"," Evolution 3.46.4-2"],["X-Mailer"," The Bat! (v9.5.2) Professional"],
["X-Mailer"," SAP NetWeaver 7.50"],["X-Mailer"," Zimbra 8.8.15_GA_4717 (ZimbraWebClient - GC (Win)
/8.8.15_GA_4717)"],["X-Universally-Unique-Identifier"," "],["X-Apple-Base-Url"," x-msg://"],
["X-Uniform-Type-Identifier"," com.apple.mail-draft"],["X-Mozilla-Status"," 0001"],
["X-Mozilla-Status2"," 00000000"],["X-Mozilla-Draft-Info"," internal/draft; vcard=0; receipt=0; DS
N=0; uuencode=0;\n attachmentreminder=0; deliveryformat=0"],["X-Identity-Key"," id1"],
["X-Account-Key"," account1"],["X-Enigmail-Draft-Status"," N00200"],
["Autocrypt"," addr=; keydata=\n xsBNB"],["Disposition-Notification-To"," "],
["Return-Receipt-To"," "],["X-Clacks-Overhead"," GNU Terry Pratchett"],
["User-Agent"," Mutt/2.2.9 (2022-11-12)"],["User-Agent"," Roundcube Webmail/1.6.6"],
["User-Agent"," K-9 Mail for Android"],["User-Agent"," Mozilla/5.0 (X11; Linux x86_64; rv:102.0) G
ecko/20100101\n Thunderbird/115.0"],["User-Agent"," Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:1
02.0) Gecko/20100101\n Thunderbird/102.15.1"],["User-Agent"," Mozilla Thunderbird"],
["X-Sender"," "],["Organization"," "],["Precedence"," list"],["Precedence"," bulk"],
["Auto-Submitted"," auto-replied"],["Auto-Submitted"," auto-generated"],
["X-Auto-Response-Suppress"," DR, RN, NRN, OOF, AutoReply"],["X-Auto-Response-Suppress"," All"],
["X-Autoreply"," yes"],["X-Failed-Recipients"," "],["List-Archive"," <https://"],
["List-Owner"," <mailto:"],["List-Subscribe"," <mailto:-join@"],
["List-Help"," <mailto:-request@?subject=help>"],["List-Post"," <mailto:"],
["List-Unsubscribe-Post"," List-Unsubscribe=One-Click"],
["List-Unsubscribe"," <mailto:-leave@?subject=unsubscribe>,\n <https://"],["List-Id"," <"],
["Resent-From"," "],["Resent-Date"," "],["Return-Path"," <"],["Sender"," "],["Reply-To"," "],
["Bcc"," "],["X-Spam-Status"," Yes, score=6.2"],
["X-Spam-Status"," No, score=-1.9 required=5.0 tests=BAYES_00,DKIM_SIGNED,\n\tDKIM_VALID,DKIM_VALI
D_AU,DKIM_VALID_EF,FREEMAIL_FROM,HEADER_FROM_DIFFERENT_DOMAINS,HTML_FONT_LOW_CONTRAST,HTML_IMAGE_R
ATIO_,MAILING_LIST_MULTI,MIME_HTML_ONLY,MISSING_HEADERS,PDS_,T_SCC_BODY_TEXT_LINE,T_REMOTE_IMAGE,U
RIBL_BLOCKED,RCVD_IN_DNSWL_NONE,RCVD_IN_MSPIKE_H2,RCVD_IN_VALIDITY_RPBL_BLOCKED autolearn=ham auto
learn_force=no\n\tversion=4.0.1"],["X-Spam-Status"," No, score=-1.9 tagged_above=-999 required=6.2
\n\ttests=[BAYES_00=-1.9, DKIM_SIGNED=0.1, DKIM_VALID=-0.1, DKIM_VALID_AU=-0.1,\n\tDKIM_VALID_EF=-
0.1, HTML_MESSAGE=0.001, RCVD_IN_DNSWL_NONE=-0.0001, SPF_HELO_NONE=0.001,\n\tSPF_HELO_PASS=-0.001,
 SPF_PASS=-0.001, SPF_NONE=0.001, T_SCC_BODY_TEXT_LINE=-0.01, URIBL_BLOCKED=0.001]\n\tautolearn=ha
m autolearn_force=no"],["X-Spam-Level"," "],["X-Spam-Flag"," NO"],
["ARC-Seal"," i=1; a=rsa-sha256; d=microsoft.com; s=arcselector10001; cv=none;\n b="],
["ARC-Authentication-Results"," i=1; mx.microsoft.com 1; spf=pass\n smtp.mailfrom=; dmarc=pass act
ion=none header.from=;\n dkim=pass header.d=; arc=none"],
["ARC-Seal"," i=1; a=rsa-sha256; t=17; cv=none;\n        d=google.com; s=arc-20240605;\n        b=
"],["ARC-Message-Signature"," i=1; a=rsa-sha256; c=relaxed/relaxed; d=microsoft.com;\n s=arcselect
or10001;\n h=From:Date:Subject:Message-ID:Content-Type:MIME-Version:X-MS-Exchange-AntiSpam-Message
Data-ChunkCount:X-MS-Exchange-AntiSpam-MessageData-0:X-MS-Exchange-AntiSpam-MessageData-1;\n bh=;
\n b="],["Received-SPF"," Neutral"],["Received-SPF"," SoftFail"],
["Received-SPF"," None (mailfrom) identity=mailfrom; client-ip="],
["Received-SPF"," Pass (mailfrom) identity=mailfrom; client-ip=; helo=; envelope-from=; receiver="
],["Received-SPF"," pass (google.com: domain of  designates 192. as permitted sender) client-ip="]
,["Authentication-Results"," ; arc=pass; dkim=fail reason=\"signature verification failed\" header
.d=; dkim=none; dmarc=none; spf=none smtp.mailfrom=; spf=softfail; iprev=pass policy.iprev=; auth=
pass smtp.auth="],["Authentication-Results"," mail.;\n\tdkim=pass (2048-bit key; unprotected) head
er.d= header.i=@ header.a=rsa-sha256 header.s= header.b=;\n\tspf=pass smtp.mailfrom=;\n\tdmarc=pas
s (p=quarantine dis=none) header.from="],["Authentication-Results"," spf=pass (sender IP is )\n sm
tp.mailfrom=; dkim=pass (signature was verified)\n header.d=;dmarc=pass action=none\n header.from=
;compauth=pass reason=100"],["DKIM-Signature"," v=1; a=ed25519-sha256; c=relaxed/relaxed; d="],
["DKIM-Signature"," v=1; a=rsa-sha256; c=relaxed/simple; q=dns/txt; s=default; d=; h=Content-Type:
MIME-Version:Message-ID:Date:Subject:To:From:Sender:\n\tReply-To:Cc:Content-Transfer-Encoding:Cont
ent-ID:Content-Description:Resent-Date:\n\tIn-Reply-To:References:List-Id:List-Help:List-Unsubscri
be:List-Unsubscribe-Post:List-Subscribe:List-Post:List-Owner:List-Archive;\n\tbh="],
["DKIM-Signature"," v=1; a=rsa-sha256; c=relaxed/relaxed; d=gmail.com; s=20230601; t=17; x=17;\n
        h=to:subject:message-id:date:from:in-reply-to:references:mime-version\n         :from:to:c
c:subject:date:message-id:reply-to;\n        bh=;\n        b="],
["DKIM-Signature"," v=1; a=rsa-sha256; c=relaxed/relaxed; d=;\n\ts=s1; t=17; i=@; h=from:from:send
er:reply-to:subject:subject:date:date:message-id:message-id:\n\t to:to:cc:cc:mime-version:mime-ver
sion:content-type:content-type:content-transfer-encoding:content-transfer-encoding:list-id:list-un
subscribe:\n\t in-reply-to:in-reply-to:references:references:autocrypt;\n\tbh=;\n\tb="],
["DKIM-Signature"," v=1; a=rsa-sha256; c=relaxed/relaxed; d=.example;\n\ts=mail; t=17;\n\th=from:t
o:cc:subject:date:message-id:reply-to:in-reply-to:references:mime-version:content-type:content-tra
nsfer-encoding;\n\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\n\tb="],
["Received"," from .eurprd04.prod.outlook.com ([fe80::%4]) by\n .eurprd04.prod.outlook.com ([fe80:
:%4]) with mapi id 15.20.7452.035; Mon, 1 Jan 2026 00:00:00\n +0000"],
["Received"," from .eurprd04.prod.outlook.com (2603:10a6:) by\n .eurprd04.prod.outlook.com (2603:1
0a6:) with Microsoft SMTP Server\n (version=TLS1_2, cipher=TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384)
 id 15.20.;\n"],["Received"," by mail.eurprd04.prod.outlook.com (2603:10a6::1) with HTTPS; "],
["Received"," from mail by with local (Exim 4.96)\n\t(envelope-from <>)\n\tid 1r-00-00;\n\t"],
["Received"," from [] (helo=)\n\tby  with esmtpsa  (TLS1.3) tls TLS_AES_256_GCM_SHA384\n\t(Exim 4.
96)\n\t(envelope-from <>)\n\tid 1r"],["Received"," (qmail 12345 invoked by uid 1000); "],
["Received"," from localhost ([127.0.0.1])\n\tby localhost (mail. [127.0.0.1]) (amavis, port 10024
)\n\twith ESMTP id  for <>;\n\t"],["Received"," by mail. (Postfix, from userid 33)\n\tid ; "],
["Received"," from  (unknown [])\n\t(Authenticated sender: )\n\tby "],
["Received"," from mail. (localhost [IPv6:::1])\n\tby  with LMTP\n\tid \n\t(envelope-from <>)\n\tf
or <>; "],["Received"," from [10.0. by  with LMTP id "],
["Received"," from [192.168.178. (p.dip0.t-ipconnect.de [])\n\t(using TLSv1.2 with cipher ECDHE-RS
A-AES256-GCM-SHA384 (256/256 bits))\n\t(No client certificate requested)\n\tby "],
["Received"," from mail.example.com (mx1.example.com [192.0.2.1])\n\t(using TLSv1.3 with cipher TL
S_AES_256_GCM_SHA384 (256/256 bits)\n\t key-exchange X25519 server-signature RSA-PSS (2048 bits) s
erver-digest SHA256)\n\t(Client did not present a certificate)\n\t(No client certificate requested
)\n\tby mx2.example.com (Postfix) with ESMTPSA id 4Z\n\tfor <>; Mon, 01 Jan 2026 00:00:00 +0000 (U
TC)"],["Received"," by mx.example.com with SMTP id \n        for <>; Tue, 02 Feb 2026 00:00:00 +02
00 (CEST)"],["Received"," from mx.example (mx.example []) (using TLSv1.3 with cipher TLS_AES_256_G
CM_SHA384 (256/256 bits))\n\tby mx.example (Postfix) with ESMTPS id "],
Thu, 24 Mar Fri, 25 Apr Sat, 26 May Sun, 27 Jun Wed, 28 Jul 29 Aug 30 Sep 31 Oct 2025 Nov 2026 Dec
 2026 +0100 (CET) -0500 (EST) -0800 (PST) +0530 (IST) +0900 (JST)["Content-Disposition"," inline"]
,["Content-Disposition"," attachment; filename=\""],
["Content-Type"," multipart/report; report-type=delivery-status;\n\tboundary=\""],
["Content-Type"," multipart/signed; micalg=\"sha-256\"; protocol=\"application/pkcs7-signature\";
 boundary=\""],["Content-Type"," multipart/encrypted; protocol=\"application/pgp-encrypted\";\n bo
undary=\""],["Content-Type"," multipart/related;\n\tboundary=\"_004_"],
["Content-Type"," application/pdf; name=\""],
["Content-Type"," text/plain; charset=\"iso-8859-1\""],
["Content-Type"," text/html; charset=\"utf-8\""],["Content-Type"," text/html; charset=UTF-8"],
["Content-Type"," multipart/mixed;\n\tboundary=\"_002_"],
["Content-Type"," multipart/alternative;\n\tboundary=\"_000_"],
["Content-Type"," multipart/alternative; boundary=\"000000000000"],
["Content-Type"," multipart/mixed; boundary=\"----=_Part_"],
["Content-Type"," multipart/alternative;\n boundary=\"------------"],
["Content-Type"," multipart/mixed; boundary=\"===============1234567890==\""],
["Content-Type"," text/plain; charset=\"us-ascii\""],
["Content-Type"," text/plain; charset=utf-8; format=flowed"],
["Content-Type"," text/plain; charset=\"utf-8\""],["Content-Transfer-Encoding"," base64"],
["Content-Transfer-Encoding"," 8bit"],["Content-Transfer-Encoding"," quoted-printable"],
["Content-Transfer-Encoding"," 7bit"],=?UTF-8?Q?=C3=BC =?UTF-8?Q?_=C3=A4 =?UTF-8?Q?_=C3=B6_=C3=9F_
=C3=A9_=C3=A8_=E2=80=93 =?utf-8?B? =?iso-8859-1?Q?_=FCr_=E4_=F6_=DF =?iso-8859-15?Q? =?windows-125
2?Q? =?windows-1251?B? =?koi8-r?B? =?iso-2022-jp?B?GyRC =?gb2312?B? =?utf-8?Q?["Subject"," AW: WG:
 Fwd: Undelivered Mail Returned to Sender"],["Subject"," Re: =?UTF-8?Q?Re=3A_"],
["Subject"," Invoice Order Report Meeting Offer Contract Project Update for your the and of in to
 from with Rechnung Bestellung Angebot Termin "],["Subject"," =?utf-8?B?"],["Cc"," \""],
["Date"," Mon, 1 Jan 2026 00:00:00 GMT"],["References"," <.com>\n <"],
["In-Reply-To"," <@mail.gmail.com>"],["Message-Id"," <20260101000000."],
["Message-ID"," <.JavaMail.@"],["Message-ID"," <.eurprd04.prod.outlook.com>"],
["Message-ID"," <CA+@mail.gmail.com>"],["To"," undisclosed-recipients:;"],
["To"," <@example.org>,\n\t"],["To"," @example.com>, "],["From"," \"=?UTF-8?Q?"],
["From"," =?utf-8?Q?"],["MIME-Version"," 1.0"],["Date"," Fri, 03 Mar 2026 00:00:00 +0100"],
["Date"," Wed, 04 Apr 2026 00:00:00 +0000"],["Message-ID"," <"],["In-Reply-To"," <"],
["References"," <"],["Subject"," Re: "],["Subject"," "],["To"," "],["From","
"""

DICTIONARY_1 = _PHRASES.replace("\n", "").encode("ascii")
