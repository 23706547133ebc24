"""Who people are called and what they write about, in the languages of an organisation's mail.

Promises: names carry a spelling in ASCII for addresses; words stand with the frequent ones first.
No name is that of anybody: given names and family names are combined at random.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """One language and how its writers' programs encode it."""

    code: str
    share: int  # of the people
    charset: str  # of encoded words; UTF-8 is as usual as this one
    reply: str  # what their programs put before the subject of an answer
    zone: str  # of their clocks
    given: tuple[tuple[str, str], ...]  # name, spelling in ASCII
    family: tuple[tuple[str, str], ...]
    words: tuple[str, ...]  # most frequent first


def _names(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (one.partition("/") for one in text.split())
    return tuple((name, plain or name.lower()) for name, _, plain in pairs)


LANGUAGES = (
    Language(
        "de",
        34,
        "iso-8859-1",
        "AW: ",
        "+0100",
        _names(
            "Anna Lukas Jürgen/juergen Käthe/kaethe Stefan Sabine Uwe Birgit Jörg/joerg Heike Timo "
            "Frauke Bärbel/baerbel Holger Silke Götz/goetz Maren Niels Ulrike Volker"
        ),
        _names(
            "Müller/mueller Schröder/schroeder Weiß/weiss Krüger/krueger Lindner Ahrens Böhm/boehm "
            "Petersen Vogt Hülsmann/huelsmann Kowalke Reinders Jäger/jaeger Brandtner Seidler "
            "Thomsen Großmann/grossmann Wieland Oster Kröncke/kroencke"
        ),
        tuple(
            "Rechnung Angebot Termin Bestellung Anfrage Vertrag Protokoll Lieferung Besprechung "
            "Bericht für Bestätigung Unterlagen Änderung "
            "Kündigung Mahnung Projekt Freigabe Entwurf "
            "Rückfrage Übersicht Einladung Schulung Urlaub Prüfung Maßnahmen Jahresabschluss "
            "Zeichnung Montage Wartung Störung Gutschrift Reklamation Muster Lieferschein Auftrag "
            "Planung Versicherung Bewerbung Gespräch Messe Kalkulation Nachtrag Baustelle "
            "Größenangaben Zoll Spedition Ersatzteile "
            "Prüfbericht Genehmigung Haushalt Ausschreibung".split()
        ),
    ),
    Language(
        "en",
        28,
        "us-ascii",
        "Re: ",
        "+0000",
        _names(
            "James Olivia Peter Grace Daniel Emma Robert Alice Martin Judith Colin Fiona Graham "
            "Heather Neil Priya Sanjay Megan Trevor Wendy"
        ),
        _names(
            "Ashdown Bradwell Carver Dunmore Ellison Farrow Godwin Hartley Ingram Jessop Kendrick "
            "Lockwood Marlow Norwood Oakden Prescott Quill Ravenhill Stanton O'Dell/odell"
        ),
        tuple(
            "Invoice Meeting Report Order Update Request Contract Annual Draft Review Delivery "
            "Quarterly Minutes Proposal Payment Agenda Schedule Confirmation Project Budget Offer "
            "Agreement Statement Reminder Notes Approval Shipment Maintenance Incident Access "
            "Training Travel Expense Audit Figures Survey Interview Renewal Licence Outage Support "
            "Drawing Sample Complaint Refund Warranty "
            "Forecast Tender Customs Insurance Holiday".split()
        ),
    ),
    Language(
        "fr",
        9,
        "iso-8859-15",
        "RE: ",
        "+0100",
        _names(
            "François/francois Hélène/helene Luc "
            "Amélie/amelie Benoît/benoit Chloé/chloe Gérard/gerard "
            "Noëlle/noelle Thierry Sylvie"
        ),
        _names(
            "Lefèvre/lefevre Besançon/besancon Marchand Dupré/dupre Garnier Châtelain/chatelain "
            "Rousselet Péguy/peguy Aubert Villeneuve"
        ),
        tuple(
            "facture réunion commande devis contrat "
            "relevé livraison échéance projet congés rapport "
            "paiement compte-rendu mise demande réclamation élections déplacement modèle révision "
            "données pièce jointe rappel forêt été accord budget avenant".split()
        ),
    ),
    Language(
        "pl",
        7,
        "iso-8859-2",
        "Odp: ",
        "+0100",
        _names(
            "Łukasz/lukasz Małgorzata/malgorzata Paweł/pawel Zofia Grażyna/grazyna Wojciech "
            "Stanisław/stanislaw Ewa Michał/michal Żaneta/zaneta"
        ),
        _names(
            "Wiśniewska/wisniewska Dąbrowicz/dabrowicz Zieliński/zielinski Wójtowicz/wojtowicz "
            "Szczepanik Jabłonowska/jablonowska Gołębiak/golebiak Kaźmierczyk/kazmierczyk Nowik"
        ),
        tuple(
            "faktura zamówienie spotkanie umowa płatność oferta dostawa księgowość wniosek "
            "świadectwo przegląd zmiana termin źródło "
            "część łożysko raport pytanie reklamacja urlop "
            "szkolenie zgłoszenie próbka żądanie budżet".split()
        ),
    ),
    Language(
        "el",
        5,
        "iso-8859-7",
        "ΑΠ: ",
        "+0200",
        _names(
            "Νίκος/nikos Ελένη/eleni Γιώργος/giorgos Μαρία/maria Κώστας/kostas Άννα/anna "
            "Σπύρος/spyros Δήμητρα/dimitra"
        ),
        _names(
            "Παππάς/pappas Οικονόμου/oikonomou Αλεξίου/alexiou Καραγιάννης/karagiannis "
            "Μαυρίδης/mavridis Σταύρου/stavrou Λάμπρου/lamprou"
        ),
        tuple(
            "τιμολόγιο παραγγελία συνάντηση σύμβαση προσφορά έκθεση αναφορά παράδοση πληρωμή έργο "
            "αίτηση έγγραφα πρόγραμμα υπενθύμιση άδεια "
            "προϋπολογισμός αλλαγή σχέδιο ερώτηση ναύλος".split()
        ),
    ),
    Language(
        "ru",
        6,
        "koi8-r",
        "Re: ",
        "+0300",
        _names(
            "Алексей/aleksey Наталья/natalya Дмитрий/dmitriy Ольга/olga Сергей/sergey Юлия/yuliya "
            "Фёдор/fedor Ирина/irina"
        ),
        _names(
            "Щукин/shchukin Королёва/koroleva "
            "Жданов/zhdanov Белозерская/belozerskaya Чайкин/chaykin "
            "Ершов/ershov Яшина/yashina"
        ),
        tuple(
            "счёт договор заказ встреча отчёт поставка оплата заявка срок проект письмо акт сверка "
            "чертёж запрос изменение график претензия "
            "обучение таможня накладная смета отпуск".split()
        ),
    ),
    Language(
        "he",
        2,
        "utf-8",
        "תגובה: ",
        "+0200",
        _names("נועה/noa דוד/david תמר/tamar יוסף/yosef מיכל/michal"),
        _names("לביא/lavi כרמלי/carmeli שגיא/sagi ברקן/barkan"),
        tuple("חשבונית פגישה הזמנה דוח חוזה משלוח תשלום פרויקט עדכון הצעה בקשה תקציב".split()),
    ),
    Language(
        "ar",
        2,
        "utf-8",
        "رد: ",
        "+0300",
        _names("ليلى/layla كريم/karim هدى/huda سامر/samer نور/nour"),
        _names("حداد/haddad خوري/khoury المنصور/almansour زيدان/zidan"),
        tuple("فاتورة اجتماع طلب عقد تقرير شحنة دفع مشروع تحديث عرض موعد ميزانية".split()),
    ),
    Language(
        "ja",
        4,
        "iso-2022-jp",
        "Re: ",
        "+0900",
        _names("健太/kenta 美咲/misaki 大輔/daisuke 由美/yumi 翔/sho さくら/sakura"),
        _names("小田切/odagiri 水野/mizuno 黒沢/kurosawa 森下/morishita 桜井/sakurai"),
        tuple(
            "請求書 会議 注文 見積書 契約 報告書 納品 お支払い "
            "資料 確認 変更 予定 図面 お願い 出張 研修 予算 "
            "ご連絡 議事録 検収".split()
        ),
    ),
)

# Of made-up words: project names, products, firms.
SYLLABLES = (
    "bal cor da el fa gan hel is ju kor lam mer nor ol pra quin ros sel tar ul ven wil xan yor zim "
    "bo chi del fen gri hol jan kas lu min"
).split()
FIRMS = (
    "bau handel werk logistik kontor media energie foods steel data motion pharma textil print "
    "consult marine holz optik plast systems"
).split()
CHEERS = ("🎉", "🔥", "✅", "📣", "💡", "🚚", "⏰", "🎁", "👋", "🇪🇺")
