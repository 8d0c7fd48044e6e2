//! The palette and the look, for a page and for a picture alone.

/// Colours of series, in the order of use: Okabe and Ito, the last one black or light grey with the theme. Class `cN` fills with one.
pub(super) const SERIES: usize = 8;

/// Variables and chart classes; in a picture alone, `:root` is the picture.
pub(super) const CHART: &str = "\
:root{--paper:#ffffff;--card:#f7f8fa;--ink:#1b1f24;--quiet:#59636e;--rule:#d5dae0;--c0:#0072b2;--c1:#56b4e9;--c2:#d55e00;--c3:#e69f00;\
--c4:#009e73;--c5:#cc79a7;--c6:#f0e442;--c7:#4d4d4d;--alarm:#b3261e}\
@media(prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1c2027;--ink:#e6e9ed;--quiet:#a3adb8;--rule:#3a424d;--c0:#2b8fd0;\
--c7:#b9bec5;--alarm:#ff8a80}}\
@media print{:root{--paper:#ffffff;--card:#ffffff;--ink:#000000;--quiet:#444444;--rule:#bbbbbb}}\
svg text{font-family:system-ui,'Segoe UI','DejaVu Sans',Arial,sans-serif;font-size:12px;fill:var(--ink);font-variant-numeric:tabular-nums}\
svg .small{font-size:10.5px}svg .quiet{fill:var(--quiet)}svg .strong{font-weight:600}svg .end{text-anchor:end}svg .middle{text-anchor:middle}\
svg .heading{font-size:15px;font-weight:600}svg .title{font-size:20px;font-weight:650}svg .onDark{fill:#ffffff}svg .onLight{fill:#111111}svg .onGrey{fill:var(--paper)}\
svg .paper{fill:var(--paper)}svg .grid{stroke:var(--rule);stroke-width:1;fill:none}svg .axis{stroke:var(--quiet);stroke-width:1;fill:none}\
svg .whisker{stroke:var(--ink);stroke-width:1.5;fill:none}svg .limit{stroke:var(--alarm);stroke-width:2;stroke-dasharray:6 3;fill:none}\
svg .mean{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 3;fill:none}svg .alarm{fill:var(--alarm)}svg .track{fill:var(--rule);fill-opacity:.45}\
svg .segment{stroke:var(--paper);stroke-width:1}svg .bottleneck{stroke:var(--ink);stroke-width:2}\
svg .dot{fill:var(--quiet);fill-opacity:.35}svg .misfit{stroke:var(--quiet);stroke-opacity:.35;stroke-width:1;fill:none}\
svg .front{stroke:var(--c2);stroke-width:2;fill:none}svg .frontDot{fill:var(--c2);stroke:var(--paper);stroke-width:1.5}\
svg .c0{fill:var(--c0)}svg .c1{fill:var(--c1)}svg .c2{fill:var(--c2)}svg .c3{fill:var(--c3)}svg .c4{fill:var(--c4)}svg .c5{fill:var(--c5)}\
svg .c6{fill:var(--c6)}svg .c7{fill:var(--c7)}svg .nvlink{fill:var(--c0)}svg .rdma{fill:var(--c2)}svg .own{fill:var(--c7)}";

/// The rest of a page.
pub(super) const PAGE: &str = "\
html{background:var(--paper);color:var(--ink);color-scheme:light dark}body{font:15px/1.5 system-ui,'Segoe UI','DejaVu Sans',Arial,sans-serif;\
max-width:1080px;margin:0 auto;padding:32px 24px 64px}h1{font-size:26px;line-height:1.2;margin:0 0 4px}h2{font-size:20px;margin:44px 0 10px;\
padding-top:14px;border-top:2px solid var(--rule)}h3{font-size:16px;margin:26px 0 6px}p{margin:6px 0}.quiet,figcaption{color:var(--quiet)}\
figcaption{font-size:13px;margin-top:4px}figure{margin:14px 0 22px;padding:14px 16px;background:var(--card);border:1px solid var(--rule);\
border-radius:8px;overflow-x:auto;break-inside:avoid}figure svg{display:block;max-width:100%;height:auto}.wide{overflow-x:auto}\
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;margin:8px 0}th,td{padding:4px 0 4px 20px;text-align:right;\
border-bottom:1px solid var(--rule);white-space:nowrap}th:first-child,td:first-child{text-align:left;padding-left:0}thead th{color:var(--quiet);font-weight:600;white-space:normal;\
vertical-align:bottom}tbody th{font-weight:400}td.best{font-weight:700}td.best::before{content:'\u{2713} ';color:var(--c4)}td.text{text-align:left}\
ul{margin:6px 0;padding-left:20px}li{margin:3px 0}.verdict{font-size:16px;border-left:4px solid var(--c4);padding:6px 14px;background:var(--card)}\
.bad{color:var(--alarm);font-weight:600}nav a{margin-right:16px}a{color:var(--c0)}dl.facts{display:flex;flex-wrap:wrap;gap:10px 34px;margin:16px 0}\
dl.facts div{min-width:90px}dl.facts dt{font-size:12.5px;color:var(--quiet)}dl.facts dd{margin:0;font-size:21px;font-weight:600;\
font-variant-numeric:tabular-nums}dl.facts dd small{font-size:13px;font-weight:400;color:var(--quiet)}\
@media print{body{max-width:none;padding:0}h2{break-after:avoid}}";
